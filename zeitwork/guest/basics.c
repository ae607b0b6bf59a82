/* Clock, files, numbers, waiting, the kernel's command line: what every other file needs. */
#include "init.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void sleep_ms(int milliseconds)
{
	struct timespec time = {milliseconds / 1000, (long)(milliseconds % 1000) * 1000000};

	nanosleep(&time, NULL);
}

/* Notes why; always false, so that a function can end with it. */
bool failed(struct problem *why, const char *stage, const char *format, ...)
{
	va_list arguments;

	snprintf(why->stage, sizeof why->stage, "%s", stage);
	va_start(arguments, format);
	vsnprintf(why->text, sizeof why->text, format, arguments);
	va_end(arguments);
	return false;
}

/* Waits for a descriptor too. Returns what poll_got() takes; nothing is waited for when fd is negative. */
int poll_add(struct pollset *set, int fd, short events)
{
	if (fd < 0 || set->count == POLL_ROOM)
		return -1;
	set->items[set->count] = (struct pollfd){.fd = fd, .events = events};
	return (int)set->count++;
}

void poll_until(struct pollset *set, int64_t when)
{
	if (when < set->until)
		set->until = when;
}

short poll_got(const struct pollset *set, int index)
{
	return index < 0 || (size_t)index >= set->count ? 0 : set->items[index].revents;
}

bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return done;
}

/* Decimal digits only, 0 to maximum. */
bool parse_number(const char *text, long maximum, long *value)
{
	long number = 0;

	if (*text == 0)
		return false;
	for (; *text != 0; text++) {
		if (*text < '0' || *text > '9' || number > (maximum - (*text - '0')) / 10)
			return false;
		number = number * 10 + (*text - '0');
	}
	*value = number;
	return true;
}

bool cmdline_has(const char *word)
{
	static char line[4096];
	char copy[sizeof line], *rest = copy, *item;

	if (line[0] == 0) {
		int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);

		if (fd >= 0) {
			if (read(fd, line, sizeof line - 1) < 0)
				line[0] = 0;
			close(fd);
		}
		line[strcspn(line, "\n")] = 0;
	}
	memcpy(copy, line, sizeof copy);
	while ((item = strsep(&rest, " ")) != NULL)
		if (strcmp(item, word) == 0)
			return true;
	return false;
}
