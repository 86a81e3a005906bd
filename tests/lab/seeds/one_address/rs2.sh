echo 2 >/proc/sys/net/ipv4/conf/all/arp_announce
echo 2 >/proc/sys/net/ipv4/conf/lo/arp_announce
echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore
echo 1 >/proc/sys/net/ipv4/conf/lo/arp_ignore
ifconfig eth0 10.0.0.22 netmask 255.255.255.0
ifconfig lo:1 192.168.1.100 netmask 255.255.255.255 broadcast 192.168.1.100
route add -host 192.168.1.100 dev lo:1
route add default gw 10.0.0.1
echo "web2">/var/www/html/index.html
service httpd start
