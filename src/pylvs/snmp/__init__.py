"""SNMP: an AgentX sub-agent (RFC 2741) that serves keepalived's MIB, and those of VRRP, through snmpd."""
