/* Loaded into keepalived, so that it also checks real servers on a kernel without IPVS. It reads and edits the table
 * by socket options of a raw socket (linux/ip_vs.h). Here every such edit succeeds, and every table is empty. All other
 * socket options are the kernel's. */
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FIRST = 1024 + 64 + 64, BEHIND = FIRST + 64, INFO = FIRST + 1, VERSION = 0x010201 };

static int is_table(int level, int name)
{
	return level == 0 /* IPPROTO_IP */ && name >= FIRST && name < BEHIND;
}

int getsockopt(int number, int level, int name, void *value, socklen_t *length)
{
	unsigned int version = VERSION;

	if (!is_table(level, name))
		return syscall(SYS_getsockopt, number, level, name, value, length);
	memset(value, 0, *length);
	if (name == INFO && *length >= sizeof(version))
		memcpy(value, &version, sizeof(version));
	return 0;
}

int setsockopt(int number, int level, int name, const void *value, socklen_t length)
{
	if (is_table(level, name))
		return 0;
	return syscall(SYS_setsockopt, number, level, name, value, length);
}
