#! /bin/bash
echo 1 > /proc/sys/net/ipv4/ip_forward
ipv=/usr/sbin/ipvsadm
vip=192.168.67.100
rs1=192.168.67.129
rs2=192.168.67.130
ifdown ens32
ifup ens32
ifconfig ens32:2 $vip broadcast $vip netmask 255.255.255.255 up
route add -host $vip dev ens32:2
$ipv -C
$ipv -A -t $vip:80 -s wrr
# -g表示DR模式
$ipv -a -t $vip:80 -r $rs1:80 -g -w 1
$ipv -a -t $vip:80 -r $rs2:80 -g -w 1
