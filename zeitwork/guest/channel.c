/* The byte stream from and to the host, and the frames in it.
 *
 * Either a vsock connection that the host makes to us, one at a time, or a virtio-serial port that outlives its hosts.
 * What comes in is handled only while there is room for the answer, and at most one unfinished frame is held. */
#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* Output of commands fills DATA_ROOM at most, so that an answer never waits for more than that. */
#define DATA_ROOM (32 * 1024)
#define OUT_BYTES (DATA_ROOM + 16 * 1024)
#define SEARCH_MS 5000
#define SEARCH_EACH_MS 200
#define ACCEPT_AGAIN_MS 1000
#define RESYNC_ZEROS 64
#define PORTS "/sys/class/virtio-ports"

/* linux/vm_sockets.h is not among musl's headers; these values are part of the kernel's ABI. */
#define VSOCK_ANY 0xffffffffu
#define VSOCK_HOST 2

struct vsock_address {
	sa_family_t family;
	uint16_t reserved;
	uint32_t port, cid;
	uint8_t zero[4];
};

static struct {
	int listener; /* -1: none */
	int port;     /* the virtio-serial port, kept for good; -1: none */
	int edge;     /* an epoll of the port, edge triggered: tells that a host came or went without waking us for nothing */
	int stream;   /* to the host by one of the two; -1 while nobody is there */
	int64_t search_at, search_until; /* the port may come a little after its driver */
	int64_t accept_at;
	bool greeted; /* HELLO came in this stream */
	bool lost;    /* what came is no frame: skipping to the zeros with which a host begins */
	bool waiting; /* a frame came that there was no room to answer */
	size_t zeros;
	size_t in_used, out_start, out_end;
	int poll_listener, poll_edge, poll_stream;
} channel = {.listener = -1, .port = -1, .edge = -1, .stream = -1, .poll_listener = -1, .poll_edge = -1, .poll_stream = -1};

/* Beside it, because what is not zero at the start takes room in the program's file. */
static unsigned char in[FRAME_HEADER + MAX_PAYLOAD], out[OUT_BYTES];

static void begin(int stream)
{
	channel.stream = stream;
	channel.greeted = channel.lost = channel.waiting = false;
	channel.in_used = channel.out_start = channel.out_end = channel.zeros = 0;
}

/* The host is gone, or speaks something else. */
static void end(void)
{
	char rest[4096];

	if (channel.stream < 0)
		return;
	if (channel.stream == channel.port)
		for (int i = 0; i < 64 && read(channel.port, rest, sizeof rest) > 0; i++)
			continue; /* what that host still said */
	else
		close(channel.stream);
	begin(-1);
	agent_lost();
}

/* For tests: the host connects to this socket. */
void channel_listen(int listener)
{
	channel.listener = listener;
}

static void open_vsock(void)
{
	struct vsock_address address = {.family = AF_VSOCK, .port = AGENT_PORT, .cid = VSOCK_ANY};
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 4) == 0)
		channel.listener = fd;
	else
		close(fd);
}

static bool has_name(const char *entry)
{
	char path[300], name[64];
	snprintf(path, sizeof path, PORTS "/%.200s/name", entry);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, name, sizeof name - 1);

	if (fd >= 0)
		close(fd);
	if (got < 0)
		return false;
	name[got] = 0;
	name[strcspn(name, "\n")] = 0;
	return strcmp(name, AGENT_SERIAL) == 0;
}

static void open_port(const char *entry)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET};
	char path[300];
	snprintf(path, sizeof path, "/dev/%.200s", entry);
	int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);

	if (fd < 0)
		return;
	channel.edge = epoll_create1(EPOLL_CLOEXEC);
	if (channel.edge >= 0 && epoll_ctl(channel.edge, EPOLL_CTL_ADD, fd, &event) == 0) {
		channel.port = fd;
		return;
	}
	close(fd);
	if (channel.edge >= 0)
		close(channel.edge);
	channel.edge = -1;
}

/* True when there is no (more) need to look again. */
static bool search_port(void)
{
	DIR *directory = opendir(PORTS);
	struct dirent *entry;

	if (directory == NULL)
		return true; /* no driver, no port ever */
	while (channel.port < 0 && (entry = readdir(directory)) != NULL)
		if (entry->d_name[0] != '.' && has_name(entry->d_name))
			open_port(entry->d_name);
	closedir(directory);
	return channel.port >= 0;
}

void channel_open(void)
{
	open_vsock();
	if (!search_port()) {
		channel.search_until = now_ms() + SEARCH_MS;
		channel.search_at = now_ms() + SEARCH_EACH_MS;
	}
}

static bool wants_input(void)
{
	return !agent_busy() && channel_answer_room();
}

void channel_prepare(struct pollset *set)
{
	short events = (short)((wants_input() ? POLLIN : 0) | (channel.out_end > channel.out_start ? POLLOUT : 0));
	bool accepting = now_ms() >= channel.accept_at;

	channel.poll_listener = poll_add(set, accepting ? channel.listener : -1, POLLIN);
	channel.poll_edge = poll_add(set, channel.stream != channel.port ? channel.edge : -1, POLLIN);
	channel.poll_stream = poll_add(set, channel.stream, events);
	if (channel.waiting && wants_input())
		poll_until(set, 0);
	if (!accepting)
		poll_until(set, channel.accept_at);
	if (channel.search_at != 0)
		poll_until(set, channel.search_at);
}

static void search_again(void)
{
	if (channel.search_at == 0 || now_ms() < channel.search_at)
		return;
	channel.search_at = search_port() || now_ms() >= channel.search_until ? 0 : now_ms() + SEARCH_EACH_MS;
}

/* Only the host may talk to us; a new connection of it replaces the one before. */
static void accept_host(void)
{
	for (;;) {
		struct vsock_address address = {0};
		socklen_t size = sizeof address;
		int fd = accept4(channel.listener, (struct sockaddr *)&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0) {
			if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
				channel.accept_at = now_ms() + ACCEPT_AGAIN_MS;
			return;
		}
		if (address.family == AF_VSOCK && address.cid != VSOCK_HOST) {
			close(fd);
			continue;
		}
		end();
		begin(fd);
	}
}

static void look_at_port(void)
{
	struct epoll_event event;
	struct pollfd item = {.fd = channel.port};

	epoll_wait(channel.edge, &event, 1, 0); /* takes the edge: until the next one there is nothing to see */
	if (poll(&item, 1, 0) < 0)
		return;
	if ((item.revents & (POLLERR | POLLNVAL)) != 0) { /* unplugged */
		close(channel.edge);
		close(channel.port);
		channel.edge = channel.port = -1;
	} else if ((item.revents & POLLHUP) == 0 && channel.stream < 0) {
		begin(channel.port);
	}
}

/* Drops bytes until a host began anew. */
static void resync(void)
{
	size_t at = 0;

	while (at < channel.in_used && channel.zeros < RESYNC_ZEROS) {
		channel.zeros = in[at] == 0 ? channel.zeros + 1 : 0;
		at++;
	}
	channel.lost = channel.zeros < RESYNC_ZEROS;
	memmove(in, in + at, channel.in_used - at);
	channel.in_used -= at;
}

static void garbage(void)
{
	if (channel.stream != channel.port) {
		end();
		return;
	}
	channel.lost = true;
	channel.zeros = 0;
	channel.greeted = false;
	agent_lost();
}

/* Handles the whole frames that came, as long as they may be answered. */
static void take_frames(void)
{
	size_t at = 0;

	while (channel.stream >= 0 && !channel.lost) {
		while (at < channel.in_used && in[at] == 0)
			at++;
		channel.waiting = channel.in_used > at && !wants_input();
		if (channel.waiting || channel.in_used - at < FRAME_HEADER)
			break;
		unsigned char *frame = in + at;
		size_t length = get16(frame + 2);
		if (frame[1] != 0 || length > MAX_PAYLOAD) {
			at++;
			garbage();
			break;
		}
		if (channel.in_used - at < FRAME_HEADER + length)
			break;
		at += FRAME_HEADER + length;
		if (frame[0] == HELLO)
			channel.greeted = true;
		if (channel.greeted) /* what was left by another host is not for us */
			agent_frame(frame[0], get32(frame + 4), frame + FRAME_HEADER, length);
	}
	if (at > channel.in_used) /* the stream ended meanwhile */
		return;
	memmove(in, in + at, channel.in_used - at);
	channel.in_used -= at;
}

static void take_input(short events)
{
	if ((events & POLLIN) == 0 || channel.in_used == sizeof in) {
		if ((events & (POLLHUP | POLLERR | POLLNVAL)) != 0)
			end();
		return;
	}
	ssize_t got = read(channel.stream, in + channel.in_used, sizeof in - channel.in_used);
	if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
		end();
		return;
	}
	channel.in_used += got > 0 ? (size_t)got : 0;
}

void channel_handle(const struct pollset *set)
{
	short events = poll_got(set, channel.poll_stream);

	search_again();
	if (events != 0)
		take_input(events);
	if (poll_got(set, channel.poll_edge) != 0)
		look_at_port();
	if (poll_got(set, channel.poll_listener) != 0)
		accept_host();
	take_frames();
	if (channel.lost) {
		resync();
		take_frames();
	}
}

void channel_flush(void)
{
	while (channel.stream >= 0 && channel.out_end > channel.out_start) {
		ssize_t written = write(channel.stream, out + channel.out_start, channel.out_end - channel.out_start);

		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0 && errno != EAGAIN)
			end();
		if (written <= 0)
			return;
		channel.out_start += (size_t)written;
	}
	channel.out_start = channel.out_end = 0;
}

static size_t used(void)
{
	return channel.out_end - channel.out_start;
}

/* Whether the longest answer fits. Always true while nobody is there, as what is sent then goes nowhere. */
bool channel_answer_room(void)
{
	return sizeof out - used() >= ANSWER_ROOM;
}

static void make_room(size_t size)
{
	if (sizeof out - channel.out_end >= size)
		return;
	memmove(out, out + channel.out_start, used());
	channel.out_end = used();
	channel.out_start = 0;
}

static void put_header(enum kind kind, uint32_t session, size_t length)
{
	unsigned char *at = out + channel.out_end;

	put32(at, (uint32_t)kind | (uint32_t)length << 16);
	put32(at + 4, session);
	channel.out_end += FRAME_HEADER + length;
}

/* Callers look at channel_answer_room() first; a frame without room is dropped. */
void channel_send(enum kind kind, uint32_t session, const void *payload, size_t length)
{
	if (channel.stream < 0 || sizeof out - used() < FRAME_HEADER + length)
		return;
	make_room(FRAME_HEADER + length);
	if (length > 0)
		memcpy(out + channel.out_end + FRAME_HEADER, payload, length);
	put_header(kind, session, length);
}

/* Where the next bytes of a command's output may be put, and how many; 0 while the host has to take some first. */
char *channel_data(size_t *room)
{
	size_t taken = used() + FRAME_HEADER;

	*room = taken >= DATA_ROOM ? 0 : DATA_ROOM - taken > MAX_PAYLOAD ? MAX_PAYLOAD : DATA_ROOM - taken;
	make_room(FRAME_HEADER + *room);
	return (char *)out + channel.out_end + FRAME_HEADER;
}

/* That many bytes were put there. */
void channel_data_sent(enum kind kind, uint32_t session, size_t length)
{
	if (channel.stream >= 0)
		put_header(kind, session, length);
}
