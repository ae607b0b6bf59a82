/* The serial console: one bounded buffer, non-blocking writes, and the lines that the host reads. */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <termios.h>
#include <unistd.h>

/* What the app wrote may fill APP_ROOM; our own few lines always find room behind it. */
#define APP_ROOM (64 * 1024)
#define OWN_ROOM (32 * 1024)

static char buffer[APP_ROOM + OWN_ROOM];
static size_t start, end;
static int console = -1;
static char last = 0; /* last byte queued; firmware and kernel may have left a partial line before the first */
static char nonce[65] = "-";

void console_open(void)
{
	struct termios settings;

	console = open("/dev/console", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (console < 0)
		console = open("/dev/ttyS0", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (console >= 0 && tcgetattr(console, &settings) == 0) {
		cfmakeraw(&settings); /* the app's bytes as they are: no CR before LF, no echo, no signals from the line */
		tcsetattr(console, TCSANOW, &settings);
	}
}

int console_fd(void)
{
	return console;
}

bool console_pending(void)
{
	return end > start;
}

size_t console_room(void)
{
	size_t used = end - start;

	return used < APP_ROOM ? APP_ROOM - used : 0;
}

void console_put(const char *data, size_t length)
{
	if (length == 0)
		return;
	if (start > 0 && end + length > sizeof buffer) {
		memmove(buffer, buffer + start, end - start);
		end -= start;
		start = 0;
	}
	if (length > sizeof buffer - end)
		return;
	memcpy(buffer + end, data, length);
	end += length;
	last = data[length - 1];
}

void console_write(void)
{
	while (end > start) {
		ssize_t written = console < 0 ? (ssize_t)(end - start) : write(console, buffer + start, end - start);

		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0 && errno == EAGAIN)
			return;
		if (written <= 0) /* a console that fails for good: drop, or the app would block on it for ever */
			written = (ssize_t)(end - start);
		start += (size_t)written;
	}
	start = end = 0;
}

/* Waits until all that was queued has left the machine, but no longer than that many milliseconds. */
void console_flush(int timeout_ms)
{
	int64_t deadline = now_ms() + timeout_ms;
	int waiting = 0;

	for (;;) {
		console_write();
		if (!console_pending() || now_ms() >= deadline)
			break;
		struct pollfd item = {.fd = console, .events = POLLOUT};
		poll(&item, 1, 20);
	}
	/* TCSBRK (tcdrain) cannot be given a deadline, so wait for the driver's buffer to empty first. */
	while (console >= 0 && ioctl(console, TIOCOUTQ, &waiting) == 0 && waiting > 0 && now_ms() < deadline)
		sleep_ms(2);
	if (console >= 0 && waiting == 0)
		tcdrain(console);
}

void report_as(const char *text)
{
	snprintf(nonce, sizeof nonce, "%s", text);
}

static void report_line(const char *text)
{
	char line[2048];
	int length = snprintf(line, sizeof line - 1, "%s[zeitwork %s] %s", last == '\n' ? "" : "\n", nonce, text);

	if (length < 0)
		return;
	if ((size_t)length > sizeof line - 2)
		length = (int)sizeof line - 2;
	line[length] = '\n';
	console_put(line, (size_t)length + 1);
	console_write();
}

void report(const char *format, ...)
{
	char text[1024];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof text, format, arguments);
	va_end(arguments);
	report_line(text);
}

/* The message is quoted as a JSON string. */
void report_error(const char *stage, const char *message)
{
	char text[1600];
	size_t used = (size_t)snprintf(text, sizeof text, "error stage=%s message=\"", stage);

	for (const unsigned char *at = (const unsigned char *)message; *at != 0 && used < sizeof text - 16; at++) {
		if (*at == '"' || *at == '\\')
			used += (size_t)snprintf(text + used, sizeof text - used, "\\%c", *at);
		else if (*at < 0x20 || *at == 0x7f)
			used += (size_t)snprintf(text + used, sizeof text - used, "\\u%04x", *at);
		else
			text[used++] = (char)*at;
	}
	text[used++] = '"';
	text[used] = 0;
	report_line(text);
}
