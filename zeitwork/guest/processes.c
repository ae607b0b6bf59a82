/* The processes that there are, read from a /proc of our own: an app may mount something over its own one. */
#include "agent.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KERNEL_THREAD 0x00200000 /* PF_KTHREAD in linux/sched.h */

/* Opens a file of /proc for reading. The first call must come before an app runs. */
int proc_open(const char *name)
{
	static int proc = -1;

	if (proc < 0)
		proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return openat(proc, name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
}

/* The kernel's own number of that field of a stat file, of those after the state, which is the third. */
static long field(const char *rest, int number)
{
	for (int i = 3; i < number && rest != NULL; i++)
		rest = strchr(rest + 1, ' ');
	return rest == NULL ? 0 : strtol(rest, NULL, 10);
}

static bool parse(const char *text, pid_t pid, struct process *process)
{
	const char *rest = strrchr(text, ')'); /* the name before it may hold anything */

	if (rest == NULL || rest[1] != ' ' || rest[2] == 0)
		return false;
	rest++;
	process->pid = pid;
	process->state = rest[1];
	process->parent = (pid_t)field(rest, 4);
	process->session = (pid_t)field(rest, 6);
	process->kernel = ((unsigned long)field(rest, 9) & KERNEL_THREAD) != 0;
	return true;
}

/* False when there is no such process (any more). */
bool process_read(pid_t pid, struct process *process)
{
	char name[32], text[512];
	snprintf(name, sizeof name, "%d/stat", (int)pid);
	int fd = proc_open(name);
	if (fd < 0)
		return false;
	ssize_t got = read(fd, text, sizeof text - 1);
	close(fd);
	if (got <= 0)
		return false;
	text[got] = 0;
	return parse(text, pid, process);
}

/* Visits every process, those that came first before their children mostly. False when /proc can't be read. */
bool processes_visit(process_visitor *visit, void *context)
{
	struct process process;
	struct dirent *entry;
	long pid;
	int fd = proc_open(".");
	DIR *directory = fd < 0 ? NULL : fdopendir(fd);

	if (directory == NULL) {
		if (fd >= 0)
			close(fd);
		return false;
	}
	while ((entry = readdir(directory)) != NULL)
		if (parse_number(entry->d_name, INT32_MAX, &pid) && process_read((pid_t)pid, &process))
			visit(&process, context);
	closedir(directory);
	return true;
}
