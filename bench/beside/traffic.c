/* SPDX-License-Identifier: GPL-2.0-only OR MIT
 * Both ends of the traffic in one thread: what the client's socket sent has passed the director and lies in the server's
 * socket when the call returns, so a round of it is timed without a switch of tasks, and everything is counted.
 *
 *   traffic CLIENT-NETNS SERVER-NETNS
 *
 * reads lines "KIND TARGET PORT SERVER SERVER-PORT WIDTH ROUNDS" and answers each with "SENT ARRIVED MEDIAN MEAN", the last
 * two in nanoseconds of a round divided by WIDTH, or "error TEXT". SENT and ARRIVED count the KIND's units:
 *   udp      a round is WIDTH small packets to the server, of one of 16 flows
 *   echo     the same, and as many answers
 *   connect  a round is WIDTH TCP connections made and ended, one after the other
 *   http     a round is one request and its answer on each of WIDTH connections that stay
 *   bulk     a round is WIDTH full segments on one connection
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
	FLOWS = 16,
	WIDEST = 256,
	SMALL = 18, /* bytes of a datagram: its frame is Ethernet's shortest */
	SEGMENT = 1448, /* bytes of a full TCP segment with timestamps, on Ethernet */
	BUFFER_BYTES = 4 << 20, /* of a socket */
	PATIENCE_MS = 2000,
	WARM_UP = 4, /* rounds that are not timed: connections are made in them */
};

static const char request[] = "GET /index.html HTTP/1.1\r\nHost: www.example.org\r\nUser-Agent: traffic\r\nAccept: */*\r\n\r\n";
static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n"
			     "0123456789012345678901234567890123456789012345678\n"
			     "0123456789012345678901234567890123456789012345678\n";

struct plan {
	char kind[16];
	struct sockaddr_in target, server;
	int width, rounds;
};

struct result {
	long sent, arrived;
	double median, mean;
};

static int client_netns, server_netns;
static const char *failed; /* what went wrong last */

static int64_t now(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static int failure(const char *what)
{
	failed = what;
	return -1;
}

/* A socket of one side; both stay in this process. */
static int new_socket(int netns, int kind)
{
	int one = 1, bytes = BUFFER_BYTES;
	if (setns(netns, CLONE_NEWNET))
		return failure("setns");
	int fd = socket(AF_INET, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return failure("socket");
	if (kind == SOCK_DGRAM) { /* without SO_REUSEADDR, or two clients might get one port */
		setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
		setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes);
	} else {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	}
	return fd;
}

static int new_server(const struct plan *plan, int kind)
{
	int fd = new_socket(server_netns, kind);
	if (fd < 0)
		return -1;
	if (bind(fd, (const struct sockaddr *)&plan->server, sizeof plan->server)) {
		close(fd);
		return failure("bind");
	}
	if (kind == SOCK_STREAM && listen(fd, WIDEST)) {
		close(fd);
		return failure("listen");
	}
	return fd;
}

/* Until a socket has what is asked for. False: it did not in time. */
static bool ready(int fd, short events)
{
	struct pollfd one = {.fd = fd, .events = events};
	return poll(&one, 1, PATIENCE_MS) == 1;
}

/* A connection through the director: both of its ends. */
static int open_pair(const struct plan *plan, int listening, int ends[2])
{
	socklen_t length = sizeof(int);
	int error = 0;
	ends[0] = new_socket(client_netns, SOCK_STREAM);
	if (ends[0] < 0)
		return -1;
	if (connect(ends[0], (const struct sockaddr *)&plan->target, sizeof plan->target) && errno != EINPROGRESS) {
		close(ends[0]);
		return failure("connect");
	}
	ends[1] = accept4(listening, NULL, NULL, SOCK_NONBLOCK);
	if (ends[1] < 0 && ready(listening, POLLIN))
		ends[1] = accept4(listening, NULL, NULL, SOCK_NONBLOCK);
	if (ends[1] < 0 || getsockopt(ends[0], SOL_SOCKET, SO_ERROR, &error, &length) || error) {
		close(ends[0]);
		if (ends[1] >= 0)
			close(ends[1]);
		return failure("no connection came through");
	}
	return setsockopt(ends[1], IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)) ? failure("setsockopt") : 0;
}

/* The client ends it, the server sees the end and closes too. */
static int close_pair(int ends[2])
{
	char end;
	close(ends[0]);
	ssize_t got = recv(ends[1], &end, 1, 0);
	if (got < 0 && errno == EAGAIN && ready(ends[1], POLLIN))
		got = recv(ends[1], &end, 1, 0);
	close(ends[1]);
	return got ? failure("no end came through") : 0;
}

/* All of `bytes` from one end to the other, as fast as the window lets them. */
static int carry(int from, int to, const char *data, long bytes, bool repeat)
{
	static char space[1 << 16];
	long sent = 0, got = 0;
	while (got < bytes) {
		bool moved = false;
		if (sent < bytes) {
			long most = bytes - sent;
			if (repeat && most > (long)sizeof space)
				most = sizeof space;
			ssize_t done = send(from, repeat ? space : data + sent, most, MSG_NOSIGNAL);
			if (done > 0)
				sent += done, moved = true;
			else if (done < 0 && errno != EAGAIN)
				return failure("send");
		}
		ssize_t done = recv(to, space, sizeof space, 0);
		if (done > 0)
			got += done, moved = true;
		else if (!done || errno != EAGAIN)
			return failure("recv");
		if (!moved && !ready(to, POLLIN))
			return failure("bytes were lost");
	}
	return 0;
}

/* --- rounds: each returns how many units arrived, or -1 --- */

struct datagrams {
	int clients[FLOWS], server, next;
	bool answers;
};

struct batch {
	struct mmsghdr messages[WIDEST];
	struct iovec vectors[WIDEST];
	struct sockaddr_in peers[WIDEST];
	char data[WIDEST][SMALL];
};

static struct batch out, in;

static void prepare(struct batch *batch, int width, bool with_peers)
{
	for (int i = 0; i < width; i++) {
		batch->vectors[i] = (struct iovec){batch->data[i], SMALL};
		batch->messages[i].msg_hdr = (struct msghdr){
			.msg_iov = &batch->vectors[i],
			.msg_iovlen = 1,
			.msg_name = with_peers ? &batch->peers[i] : NULL,
			.msg_namelen = with_peers ? sizeof batch->peers[i] : 0,
		};
	}
}

static long drain(int fd, int width)
{
	long got = 0;
	while (got < width) {
		int done = recvmmsg(fd, in.messages + got, width - got, MSG_DONTWAIT, NULL);
		if (done > 0)
			got += done;
		else if (!ready(fd, POLLIN))
			break;
	}
	return got;
}

static long udp_round(struct datagrams *all, int width)
{
	int client = all->clients[all->next++ % FLOWS];
	if (sendmmsg(client, out.messages, width, 0) != width)
		return failure("sendmmsg");
	long got = drain(all->server, width);
	if (!all->answers || got < width)
		return got;
	if (sendmmsg(all->server, in.messages, width, 0) != width)
		return failure("sendmmsg of answers");
	prepare(&in, width, true);
	return drain(client, width);
}

static int run_datagrams(const struct plan *plan, bool answers, struct result *result, int64_t *spent)
{
	struct datagrams all = {.answers = answers};
	all.server = new_server(plan, SOCK_DGRAM);
	if (all.server < 0)
		return -1;
	int opened = 0, done = 0;
	for (; opened < FLOWS && !done; opened++) {
		all.clients[opened] = new_socket(client_netns, SOCK_DGRAM);
		if (all.clients[opened] < 0 ||
		    connect(all.clients[opened], (const struct sockaddr *)&plan->target, sizeof plan->target))
			done = failure("connect");
	}
	prepare(&out, plan->width, false);
	for (int round = -WARM_UP * FLOWS; round < plan->rounds && !done; round++) {
		prepare(&in, plan->width, true);
		int64_t start = now();
		long got = udp_round(&all, plan->width);
		if (round >= 0)
			spent[round] = now() - start;
		if (got < 0) {
			done = -1;
			break;
		}
		result->sent += plan->width;
		result->arrived += got;
		if (got < plan->width)
			break; /* the loss is in the result; each further round would wait for the timeout */
	}
	while (opened > 0)
		close(all.clients[--opened]);
	close(all.server);
	return done;
}

static int run_connects(const struct plan *plan, struct result *result, int64_t *spent)
{
	int ends[2], done = 0, listening = new_server(plan, SOCK_STREAM);
	if (listening < 0)
		return -1;
	for (int round = -WARM_UP; round < plan->rounds && !done; round++) {
		int64_t start = now();
		for (int i = 0; i < plan->width && !done; i++) {
			result->sent++;
			done = open_pair(plan, listening, ends);
			if (!done)
				done = close_pair(ends);
			result->arrived += !done;
		}
		if (round >= 0)
			spent[round] = now() - start;
	}
	close(listening);
	return done;
}

static int run_streams(const struct plan *plan, bool bulk, struct result *result, int64_t *spent)
{
	int pairs[WIDEST][2], opened = 0, done = 0, listening = new_server(plan, SOCK_STREAM);
	int connections = bulk ? 1 : plan->width;
	if (listening < 0)
		return -1;
	while (opened < connections && !(done = open_pair(plan, listening, pairs[opened])))
		opened++;
	for (int round = -WARM_UP; round < plan->rounds && !done; round++) {
		int64_t start = now();
		result->sent += plan->width;
		if (bulk)
			done = carry(pairs[0][0], pairs[0][1], NULL, (long)plan->width * SEGMENT, true);
		for (int i = 0; !bulk && i < connections && !done; i++) {
			done = carry(pairs[i][0], pairs[i][1], request, sizeof request - 1, false);
			if (!done)
				done = carry(pairs[i][1], pairs[i][0], answer, sizeof answer - 1, false);
		}
		if (round >= 0)
			spent[round] = now() - start;
		result->arrived += done ? 0 : plan->width;
	}
	while (opened > 0)
		if (close_pair(pairs[--opened]))
			done = -1;
	close(listening);
	return done;
}

/* --- lines in, lines out --- */

static int by_size(const void *a, const void *b)
{
	int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
	return (left > right) - (left < right);
}

static int run(const struct plan *plan, struct result *result)
{
	int64_t *spent = calloc(plan->rounds, sizeof *spent), total = 0;
	int done;
	if (!spent)
		return failure("no memory");
	if (!strcmp(plan->kind, "udp") || !strcmp(plan->kind, "echo"))
		done = run_datagrams(plan, plan->kind[0] == 'e', result, spent);
	else if (!strcmp(plan->kind, "connect"))
		done = run_connects(plan, result, spent);
	else if (!strcmp(plan->kind, "http") || !strcmp(plan->kind, "bulk"))
		done = run_streams(plan, plan->kind[0] == 'b', result, spent);
	else
		done = failure("no such kind");
	for (int i = 0; i < plan->rounds; i++)
		total += spent[i];
	qsort(spent, plan->rounds, sizeof *spent, by_size);
	result->median = (double)spent[plan->rounds / 2] / plan->width;
	result->mean = (double)total / plan->rounds / plan->width;
	free(spent);
	return done;
}

static int netns(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		perror(path);
		exit(1);
	}
	return fd;
}

static bool address(struct sockaddr_in *into, const char *text, int port)
{
	*into = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port)};
	return inet_pton(AF_INET, text, &into->sin_addr) == 1 && port > 0 && port < 65536;
}

int main(int count, char **words)
{
	char line[256], target[32], server[32];
	int target_port, server_port;
	if (count != 3) {
		fputs("usage: traffic CLIENT-NETNS SERVER-NETNS\n", stderr);
		return 2;
	}
	client_netns = netns(words[1]);
	server_netns = netns(words[2]);
	while (fgets(line, sizeof line, stdin)) {
		struct plan plan = {0};
		struct result result = {0};
		int found = sscanf(line, "%15s %31s %d %31s %d %d %d", plan.kind, target, &target_port, server, &server_port,
				   &plan.width, &plan.rounds);
		if (found != 7 || !address(&plan.target, target, target_port) ||
		    !address(&plan.server, server, server_port) || plan.width < 1 || plan.width > WIDEST || plan.rounds < 1)
			puts("error not a plan");
		else if (run(&plan, &result))
			printf("error %s\n", failed);
		else
			printf("%ld %ld %.1f %.1f\n", result.sent, result.arrived, result.median, result.mean);
		fflush(stdout);
	}
	return 0;
}
