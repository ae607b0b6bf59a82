/* The clock and the kernel's random generator, which a restored machine has as they were when it was saved. */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define CLOCK_TOLERANCE_MS 100

/* linux/random.h is not among musl's headers. */
#define ADD_ENTROPY _IOW('R', 0x03, int[2])
#define RESEED _IO('R', 0x07)

struct pool_info {
	int bits, bytes;
	unsigned char data[MAX_ENTROPY];
};

bool entropy_add(const unsigned char *data, size_t length, struct problem *why)
{
	struct pool_info pool = {.bits = (int)length * 8, .bytes = (int)length};
	int fd = open("/dev/urandom", O_RDWR | O_NONBLOCK | O_CLOEXEC);

	memcpy(pool.data, data, length);
	bool done = fd >= 0 && ioctl(fd, ADD_ENTROPY, &pool) == 0;
	/* ENODATA: a generator that was never seeded makes its first seed of this. */
	done = done && (ioctl(fd, RESEED) == 0 || errno == ENODATA);
	if (!done)
		failed(why, "entropy", "the kernel does not take it: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
	return done;
}

bool clock_correct(int64_t epoch_ms, struct problem *why)
{
	struct timespec now, wanted = {epoch_ms / 1000, (long)(epoch_ms % 1000) * 1000000};
	int64_t difference;

	clock_gettime(CLOCK_REALTIME, &now);
	difference = epoch_ms - ((int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000);
	if (difference >= -CLOCK_TOLERANCE_MS && difference <= CLOCK_TOLERANCE_MS)
		return true;
	return clock_settime(CLOCK_REALTIME, &wanted) == 0 || failed(why, "clock", "cannot set the clock: %s", strerror(errno));
}
