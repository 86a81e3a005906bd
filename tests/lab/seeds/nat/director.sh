echo 1 >/proc/sys/net/ipv4/ip_forward

#清除LVS-Server调度表中的所有记录
ipvsadm -C
#增加一个带有调度算法的转换表,-wrr 轮叫模式
ipvsadm -At 8.8.8.8:80 -s rr
#增加轮叫的服务器 -m nat模式
ipvsadm -at 8.8.8.8:80 -r 192.168.10.2:80 -m -w 1
ipvsadm -at 8.8.8.8:80 -r 192.168.10.3:80 -m -w 1
