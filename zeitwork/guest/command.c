/* Running a program of the image: its environment, working directory, user and command. */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define FILES_SOFT 65536
#define FILES_HARD 1048576
#define OWN_VARIABLES 3

/* Tells the parent `stage\0message` and ends the child. Exit statuses are the shell's. */
static _Noreturn void refuse(int outcome, const char *stage, int status, const char *format, ...)
{
	char text[1024];
	size_t used = strlen(stage) + 1;
	va_list arguments;

	memcpy(text, stage, used);
	va_start(arguments, format);
	vsnprintf(text + used, sizeof text - used, format, arguments);
	va_end(arguments);
	used += strlen(text + used) + 1;
	if (write(outcome, text, used) < 0)
		_exit(125);
	_exit(status);
}

static _Noreturn void refuse_exec(int outcome, const char *path, int error)
{
	struct stat status;

	if (error == ENOENT && stat(path, &status) == 0)
		refuse(outcome, "exec", 127, "cannot run %s: its interpreter is not in the image", path);
	if (error == ENOENT || error == ENOTDIR)
		refuse(outcome, "exec", 127, "command not found: %s", path);
	if (error == EACCES)
		refuse(outcome, "exec", 126, "permission denied: %s is not executable for the app's user", path);
	if (error == ENOEXEC)
		refuse(outcome, "exec", 126, "cannot run %s: not a program for this machine (exec format error)", path);
	refuse(outcome, "exec", 126, "cannot run %s: %s", path, strerror(error));
}

static size_t count(char **items)
{
	size_t number = 0;

	while (items != NULL && items[number] != NULL)
		number++;
	return number;
}

static const char *get(char **environment, const char *name, size_t length)
{
	for (; *environment != NULL; environment++)
		if (strncmp(*environment, name, length) == 0 && (*environment)[length] == '=')
			return *environment + length + 1;
	return NULL;
}

/* Appends it unless there is one of that name. */
static void put(char **environment, char *entry)
{
	if (get(environment, entry, strcspn(entry, "=")) == NULL)
		environment[count(environment)] = entry;
}

static void put_default(char **environment, const char *name, const char *value, int outcome)
{
	size_t size = strlen(name) + strlen(value) + 2;
	char *entry = malloc(size);

	if (entry == NULL)
		refuse(outcome, "exec", 125, "out of memory for the environment");
	snprintf(entry, size, "%s=%s", name, value);
	put(environment, entry);
}

/* The command's own, then the configuration's, then ours; of two with one name the first here, and the last of a command. */
static char **make_environment(const struct config *config, const struct command *command, const struct user *user, int outcome)
{
	size_t own = count(command->env);
	char **environment = calloc(own + config->envc + OWN_VARIABLES + 1, sizeof *environment);

	if (environment == NULL)
		refuse(outcome, "exec", 125, "out of memory for the environment");
	while (own > 0)
		put(environment, command->env[--own]);
	for (size_t i = 0; i < config->envc; i++)
		put(environment, config->env[i]);
	put_default(environment, "PATH", DEFAULT_PATH, outcome);
	put_default(environment, "HOSTNAME", config->hostname, outcome);
	put_default(environment, "HOME", user->home, outcome);
	return environment;
}

/* As execvp, but with PATH of the new environment, and without handing unknown files to a shell. */
static _Noreturn void execute(char **argv, char **environment, int outcome)
{
	const char *name = argv[0], *path = get(environment, "PATH", 4);
	char candidate[4096];
	bool denied = false;

	if (strchr(name, '/') != NULL) {
		execve(name, argv, environment);
		refuse_exec(outcome, name, errno);
	}
	for (const char *at = path; at != NULL && *at != 0;) {
		size_t length = strcspn(at, ":");
		struct stat status;
		int written = snprintf(candidate, sizeof candidate, "%.*s/%s", length == 0 ? 1 : (int)length, length == 0 ? "." : at, name);

		at += length + (at[length] == ':');
		if (written < 0 || (size_t)written >= sizeof candidate || stat(candidate, &status) != 0 || !S_ISREG(status.st_mode))
			continue;
		execve(candidate, argv, environment);
		if (errno != EACCES)
			refuse_exec(outcome, candidate, errno);
		denied = true;
	}
	if (denied)
		refuse(outcome, "exec", 126, "permission denied: %s is not executable for the app's user", name);
	refuse(outcome, "exec", 127, "command not found: %s (searched in PATH=%s)", name, path == NULL ? "" : path);
}

static void connect_output(const struct command *command, const struct user *user, int outcome)
{
	struct stat status;

	if (dup2(command->input, 0) < 0 || dup2(command->output, 1) < 0 || dup2(command->errors, 2) < 0)
		refuse(outcome, "exec", 125, "cannot connect the app's output: %s", strerror(errno));
	setsid();
	if (command->terminal && ioctl(0, TIOCSCTTY, 0) != 0)
		refuse(outcome, "exec", 125, "cannot take the terminal: %s", strerror(errno));
	/* It may open /dev/stdout again by name, as log settings of many images do. */
	for (int fd = 0; fd <= 2; fd++)
		if (fstat(fd, &status) == 0 && (S_ISFIFO(status.st_mode) || command->terminal) &&
		    fchown(fd, user->uid, command->terminal ? (gid_t)-1 : user->gid) != 0)
			refuse(outcome, "exec", 125, "cannot give the app its output: %s", strerror(errno));
}

static _Noreturn void child(const struct config *config, const struct command *command, int outcome)
{
	struct rlimit files = {FILES_SOFT, FILES_HARD};
	struct problem why;
	struct user user;
	sigset_t none;

	if (!user_resolve(command->user, &user, &why))
		refuse(outcome, why.stage, 126, "%s", why.text);
	connect_output(command, &user, outcome);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setrlimit(RLIMIT_NOFILE, &files);
	umask(022);
	if (command->make_cwd)
		make_directories(command->cwd);
	if (command->cwd[0] != '/' || chdir(command->cwd) != 0)
		refuse(outcome, "cwd", 126, "cannot enter the working directory %s: %s", command->cwd,
		       command->cwd[0] == '/' ? strerror(errno) : "not an absolute path");
	char **environment = make_environment(config, command, &user, outcome);
	if (setgroups(user.group_count, user.groups) != 0 || setresgid(user.gid, user.gid, user.gid) != 0 ||
	    setresuid(user.uid, user.uid, user.uid) != 0)
		refuse(outcome, "user", 126, "cannot become user %u: %s", user.uid, strerror(errno));
	execute(command->argv, environment, outcome);
}

/* Starts it in a session of its own. Returns its process, or -1 and why. `outcome` gets what command_outcome() reads. */
pid_t command_start(const struct config *config, const struct command *command, int *outcome, struct problem *why)
{
	int ends[2];
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) {
		failed(why, "exec", "cannot make a pipe: %s", strerror(errno));
		return -1;
	}
	pid = fork();
	if (pid == 0)
		child(config, command, ends[1]);
	if (pid < 0) {
		failed(why, "exec", "cannot start a process: %s", strerror(errno));
		close(ends[0]);
	} else {
		*outcome = ends[0];
	}
	close(ends[1]);
	return pid;
}

/* 1: its program runs, 0: not known yet, -1: it can't be run, and why. Never waits. */
int command_outcome(int outcome, struct problem *why)
{
	char text[1024];
	ssize_t got = read(outcome, text, sizeof text - 1);

	if (got == 0)
		return 1;
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (got < 0) {
		failed(why, "exec", "cannot be told whether it runs: %s", strerror(errno));
		return -1;
	}
	text[got] = 0;
	size_t stage = strlen(text);
	failed(why, text, "%s", stage + 1 < (size_t)got ? text + stage + 1 : "");
	return -1;
}
