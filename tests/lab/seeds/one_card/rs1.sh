echo 1 > /proc/sys/net/ipv4/conf/lo/arp_ignore
echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore
echo 2 > /proc/sys/net/ipv4/conf/lo/arp_announce
echo 2 > /proc/sys/net/ipv4/conf/all/arp_announce
ip link set eth0 up
ip addr add 10.10.24.21/24 dev eth0
ip addr add 10.10.24.88/32 broadcast 10.10.24.88 dev lo
ip route add default via 10.10.24.1
