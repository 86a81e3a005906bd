#设置ip转发
echo 0 >/proc/sysy/net/ipv4/ip_forward

/sbin/ifconfig eth0 up
/sbin/ifconfig eth0 8.8.8.8 broadcast 8.8.8.8 netmask 255.255.255.255 up

#避免arp广播问题
echo 1 > /proc/sysy/net/ipv4/conf/eth0/arp_ignore
echo 2 > /proc/sysy/net/ipv4/conf/eth0/arp_announce
echo 1 > /proc/sysy/net/ipv4/conf/all/arp_ignore
echo 2 > /proc/sysy/net/ipv4/conf/all/arp_announce

#设置路由
/sbin/route add -host 8.8.8.8 dev eth0
