/* Loaded into user-mode Linux before libc. User-mode Linux 6.1 keeps 2.7 KiB of a process's floating-point registers.
 * Hosts with more registers (AMX) accept only the whole state. Other requests are passed on. */
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PEEK_FIRST = 1, PEEK_LAST = 3, GET_REGISTERS = 0x4204, SET_REGISTERS = 0x4205, EXTENDED_STATE = 0x202 };

static char whole[1 << 16];

/* Not variadic as in libc, and words, not ints, for the system call: the stacks that call it are a kernel's. */
long ptrace(long request, long process, void *address, void *data)
{
	request = (int)request;
	process = (pid_t)process;
	if (request >= PEEK_FIRST && request <= PEEK_LAST) { /* the system call stores what libc's function returns */
		long word = 0;
		if (syscall(SYS_ptrace, request, process, address, &word) < 0)
			return -1;
		errno = 0;
		return word;
	}
	int extended = (request == GET_REGISTERS || request == SET_REGISTERS) && (long)address == EXTENDED_STATE;
	if (!extended)
		return syscall(SYS_ptrace, request, process, address, data);

	struct iovec *known = data, all = { whole, sizeof(whole) };
	if (syscall(SYS_ptrace, (long)GET_REGISTERS, process, address, &all) < 0)
		return -1;
	if (known->iov_len > all.iov_len)
		known->iov_len = all.iov_len;
	if (request == GET_REGISTERS) {
		memcpy(known->iov_base, whole, known->iov_len);
		return 0;
	}
	memcpy(whole, known->iov_base, known->iov_len);
	return syscall(SYS_ptrace, (long)SET_REGISTERS, process, address, &all);
}
