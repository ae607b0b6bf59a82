/* File systems: those of the initramfs, the app's root, and their end. */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static int upper = -1; /* the mount of the writable drive, which the app's root hides from every path */

void make_directories(const char *path)
{
	char part[4096];
	size_t length = strlen(path);

	if (length >= sizeof part)
		return;
	for (size_t i = 1; i <= length; i++)
		if (path[i] == '/' || path[i] == 0) {
			memcpy(part, path, i);
			part[i] = 0;
			mkdir(part, 0755);
		}
}

/* Before the console works nobody could be told, so failures show up later as what they cause. */
void mounts_early(void)
{
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mkdir("/dev", 0755);
	mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");
}

static void mount_or_fail(const char *what, const char *source, const char *target, const char *type,
			  unsigned long flags, const char *options)
{
	mkdir(target, 0755);
	if (mount(source, target, type, flags, options) == 0)
		return;
	if (errno == ENODEV)
		fail("mount", "cannot mount %s: this kernel has no %s", what, type);
	fail("mount", "cannot mount %s (%s): %s", what, source, strerror(errno));
}

/* Mount points are taken from the image, which may be hostile: only a real directory will do. */
static bool mount_in_root(const char *type, const char *target, unsigned long flags, const char *options)
{
	struct stat status;

	mkdir(target, 0755);
	if (lstat(target, &status) != 0 || !S_ISDIR(status.st_mode))
		fail("mount", "%s of the image is not a directory", target);
	return mount(type, target, type, flags, options) == 0;
}

static void need(bool done, const char *target)
{
	if (!done)
		fail("mount", "cannot mount %s: %s", target, strerror(errno));
}

static void kernel_filesystems(void)
{
	const unsigned long plain = MS_NOSUID | MS_NODEV | MS_NOEXEC;

	need(mount_in_root("proc", "/proc", plain, NULL), "/proc");
	need(mount_in_root("sysfs", "/sys", plain, NULL), "/sys");
	need(mount_in_root("devtmpfs", "/dev", MS_NOSUID, "mode=0755"), "/dev");
	need(mount_in_root("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"), "/dev/pts");
	need(mount_in_root("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777"), "/dev/shm");
	/* A kernel may be built without these two; few apps want them. */
	mount_in_root("mqueue", "/dev/mqueue", plain, NULL);
	mount("cgroup2", "/sys/fs/cgroup", "cgroup2", plain, NULL);
	symlink("/proc/self/fd", "/dev/fd");
	symlink("/proc/self/fd/0", "/dev/stdin");
	symlink("/proc/self/fd/1", "/dev/stdout");
	symlink("/proc/self/fd/2", "/dev/stderr");
}

/* Makes the app's root of the image (vda) and the writable drive (vdb), and moves into it. */
void mounts_root(void)
{
	struct stat status;
	bool fresh;

	mount_or_fail("the root image", "/dev/vda", "/lower", "squashfs", MS_RDONLY | MS_NODEV, NULL);
	mount_or_fail("the writable drive", "/dev/vdb", "/upper", "ext4", MS_NOATIME | MS_NODEV, "noinit_itable");
	fresh = mkdir("/upper/root", 0755) == 0;
	mkdir("/upper/work", 0700);
	if (fresh && stat("/lower", &status) == 0) { /* the overlay's own directory shows its upper layer's owner and mode */
		chown("/upper/root", status.st_uid, status.st_gid);
		chmod("/upper/root", status.st_mode & 07777);
	}
	mount_or_fail("the app's root", "overlay", "/root", "overlay", MS_NOATIME,
		      "lowerdir=/lower,upperdir=/upper/root,workdir=/upper/work,redirect_dir=on");
	upper = open("/upper", O_PATH | O_DIRECTORY | O_CLOEXEC);
	umount2("/dev", MNT_DETACH);
	umount2("/sys", MNT_DETACH);
	umount2("/proc", MNT_DETACH);
	/* pivot_root does not work on an initramfs: put the new root over the old one instead. */
	if (chdir("/root") != 0 || mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0 || chdir("/") != 0)
		fail("mount", "cannot move into the app's root: %s", strerror(errno));
	kernel_filesystems();
}

/* Called when no other process is left: afterwards both file systems are clean on their drives. */
void mounts_finish(void)
{
	char path[40];

	sync();
	if (upper < 0)
		return;
	chdir("/");
	mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
	snprintf(path, sizeof path, "/proc/self/fd/%d", upper);
	mount(NULL, path, NULL, MS_REMOUNT | MS_RDONLY, NULL);
	sync();
}
