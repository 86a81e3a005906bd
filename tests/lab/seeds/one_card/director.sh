ip link set eth0 up
ip addr add 10.10.24.10/24 dev eth0
ip addr add 10.10.24.88/32 broadcast 10.10.24.88 dev eth0
ip route add default via 10.10.24.1
ipvsadm -A -t 10.10.24.88:80 -s rr
ipvsadm -a -t 10.10.24.88:80 -r 10.10.24.21 -g
ipvsadm -a -t 10.10.24.88:80 -r 10.10.24.22 -g
ipvsadm -a -t 10.10.24.88:80 -r 10.10.24.23 -g
ipvsadm -ln
