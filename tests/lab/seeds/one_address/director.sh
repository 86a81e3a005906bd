ifconfig eth0 10.0.0.10 netmask 255.255.255.0
ifconfig eth0:1 192.168.1.100 netmask 255.255.255.0 up
ipvsadm -A -t 192.168.1.100:80 -s rr
ipvsadm -a -t 192.168.1.100:80 -r 10.0.0.21
ipvsadm -a -t 192.168.1.100:80 -r 10.0.0.22
