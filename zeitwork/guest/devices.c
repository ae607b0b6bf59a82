/* Kernel modules, block devices, the ACPI power button. */
#include "init.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#define DRIVE_WAIT_MS 5000
#define PROBE_WAIT_MS 1000

/* The first module that the kernel refused; told only when something that it may have provided is missing. */
static char refused[160];

static void load(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	bool loaded = fd >= 0 && syscall(SYS_finit_module, fd, "", 0) == 0;

	if (!loaded && errno != EEXIST && refused[0] == 0)
		snprintf(refused, sizeof refused, " (module %.80s: %s)", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	unlink(path); /* frees the memory that its copy in the initramfs takes */
}

void modules_load(void)
{
	char path[256];
	FILE *list = fopen("/modules.list", "re");

	if (list == NULL)
		return; /* a kernel with everything built in */
	while (fgets(path, sizeof path, list) != NULL) {
		path[strcspn(path, "\n")] = 0;
		if (path[0] == '/')
			load(path);
	}
	fclose(list);
}

static bool any_drive(void)
{
	DIR *directory = opendir("/sys/block");
	struct dirent *entry;
	bool found = false;

	if (directory == NULL)
		return false;
	while ((entry = readdir(directory)) != NULL)
		found = found || strncmp(entry->d_name, "vd", 2) == 0;
	closedir(directory);
	return found;
}

/* True when the machine has no virtio drive at all, which is how the host asks for a probe. */
bool drives_none(void)
{
	for (int64_t deadline = now_ms() + PROBE_WAIT_MS; now_ms() < deadline; sleep_ms(10))
		if (any_drive())
			return false;
	return true;
}

void drive_wait(const char *device)
{
	struct stat status;

	for (int64_t deadline = now_ms() + DRIVE_WAIT_MS;; sleep_ms(10)) {
		if (stat(device, &status) == 0 && S_ISBLK(status.st_mode))
			return;
		if (now_ms() >= deadline)
			fail("drives", "the drive %s did not appear within 5 seconds%s", device, refused);
	}
}

/* linux/input.h is not among musl's headers; these values are part of the kernel's ABI. */
#define EV_KEY 1
#define KEY_POWER 116
#define KEY_BYTES 96
#define EVIOCGBIT_KEY _IOC(_IOC_READ, 'E', 0x20 + EV_KEY, KEY_BYTES)

struct input_event {
	struct timeval time;
	uint16_t type, code;
	int32_t value;
};

/* Opens every input device that has a power key. Returns how many. */
size_t power_open(int *fds, size_t room)
{
	char path[300];
	size_t count = 0;
	DIR *directory = opendir("/dev/input");
	struct dirent *entry;

	if (directory == NULL)
		return 0;
	while (count < room && (entry = readdir(directory)) != NULL) {
		unsigned char keys[KEY_BYTES] = {0};

		if (strncmp(entry->d_name, "event", 5) != 0)
			continue;
		snprintf(path, sizeof path, "/dev/input/%s", entry->d_name);
		int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (ioctl(fd, EVIOCGBIT_KEY, keys) >= 0 && (keys[KEY_POWER / 8] >> (KEY_POWER % 8) & 1) != 0)
			fds[count++] = fd;
		else
			close(fd);
	}
	closedir(directory);
	return count;
}

bool power_pressed(int fd)
{
	struct input_event event;
	bool pressed = false;

	while (read(fd, &event, sizeof event) == (ssize_t)sizeof event)
		pressed = pressed || (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1);
	return pressed;
}
