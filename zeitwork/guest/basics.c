/* Clock, files, numbers, the kernel's command line: what every other file needs. */
#include "init.h"

#include <fcntl.h>
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
