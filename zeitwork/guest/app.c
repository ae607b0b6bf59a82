/* Starting the app: its environment, working directory, user and command. */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define FILES_SOFT 65536
#define FILES_HARD 1048576

static const char *get(const struct config *config, const char *name)
{
	size_t length = strlen(name);

	for (size_t i = 0; i < config->envc; i++)
		if (strncmp(config->env[i], name, length) == 0 && config->env[i][length] == '=')
			return config->env[i] + length + 1;
	return NULL;
}

static void set_default(struct config *config, const char *name, const char *value)
{
	size_t size = strlen(name) + strlen(value) + 2;
	char *entry;

	if (get(config, name) != NULL)
		return;
	entry = malloc(size);
	if (entry == NULL)
		fail("exec", "out of memory for the environment");
	snprintf(entry, size, "%s=%s", name, value);
	config->env[config->envc++] = entry;
}

/* Tells the parent `stage\0message` and ends the child. Exit statuses are the shell's. */
static _Noreturn void refuse(int errors, const char *stage, int status, const char *format, ...)
{
	char text[1024];
	size_t used = strlen(stage) + 1;
	va_list arguments;

	memcpy(text, stage, used);
	va_start(arguments, format);
	vsnprintf(text + used, sizeof text - used, format, arguments);
	va_end(arguments);
	used += strlen(text + used) + 1;
	if (write(errors, text, used) < 0)
		_exit(125);
	_exit(status);
}

static _Noreturn void refuse_exec(int errors, const char *path, int error)
{
	struct stat status;

	if (error == ENOENT && stat(path, &status) == 0)
		refuse(errors, "exec", 127, "cannot run %s: its interpreter is not in the image", path);
	if (error == ENOENT || error == ENOTDIR)
		refuse(errors, "exec", 127, "command not found: %s", path);
	if (error == EACCES)
		refuse(errors, "exec", 126, "permission denied: %s is not executable for the app's user", path);
	if (error == ENOEXEC)
		refuse(errors, "exec", 126, "cannot run %s: not a program for this machine (exec format error)", path);
	refuse(errors, "exec", 126, "cannot run %s: %s", path, strerror(error));
}

/* As execvp, but with PATH of the app's environment, and without handing unknown files to a shell. */
static _Noreturn void execute(const struct config *config, int errors)
{
	const char *command = config->argv[0], *path = get(config, "PATH");
	char candidate[4096];
	bool denied = false;

	if (strchr(command, '/') != NULL) {
		execve(command, config->argv, config->env);
		refuse_exec(errors, command, errno);
	}
	for (const char *at = path; at != NULL && *at != 0;) {
		size_t length = strcspn(at, ":");
		struct stat status;
		int written = snprintf(candidate, sizeof candidate, "%.*s/%s", length == 0 ? 1 : (int)length, length == 0 ? "." : at, command);

		at += length + (at[length] == ':');
		if (written < 0 || (size_t)written >= sizeof candidate || stat(candidate, &status) != 0 || !S_ISREG(status.st_mode))
			continue;
		execve(candidate, config->argv, config->env);
		if (errno != EACCES)
			refuse_exec(errors, candidate, errno);
		denied = true;
	}
	if (denied)
		refuse(errors, "exec", 126, "permission denied: %s is not executable for the app's user", command);
	refuse(errors, "exec", 127, "command not found: %s (searched in PATH=%s)", command, path == NULL ? "" : path);
}

static _Noreturn void child(const struct config *config, const struct user *user, int output, int errors)
{
	struct rlimit files = {FILES_SOFT, FILES_HARD};
	sigset_t none;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0 || dup2(null, 0) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0)
		refuse(errors, "exec", 125, "cannot connect the app's output: %s", strerror(errno));
	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setrlimit(RLIMIT_NOFILE, &files);
	umask(022);
	make_directories(config->cwd);
	if (config->cwd[0] != '/' || chdir(config->cwd) != 0)
		refuse(errors, "cwd", 126, "cannot enter the working directory %s: %s", config->cwd,
		       config->cwd[0] == '/' ? strerror(errno) : "not an absolute path");
	if (setgroups(user->group_count, user->groups) != 0 || setresgid(user->gid, user->gid, user->gid) != 0 ||
	    setresuid(user->uid, user->uid, user->uid) != 0)
		refuse(errors, "user", 126, "cannot become user %u: %s", user->uid, strerror(errno));
	execute(config, errors);
}

/* Returns once the app's program runs; fails with the reason when it cannot. `output` gets the end to read from. */
pid_t app_start(struct config *config, const struct user *user, int *output)
{
	char text[1024];
	int pipes[2], errors[2];
	pid_t pid;
	ssize_t got;

	set_default(config, "PATH", DEFAULT_PATH);
	set_default(config, "HOSTNAME", config->hostname);
	set_default(config, "HOME", user->home);
	if (pipe2(pipes, O_CLOEXEC) != 0 || pipe2(errors, O_CLOEXEC) != 0)
		fail("exec", "cannot make pipes: %s", strerror(errno));
	/* The app may open /dev/stdout again by name, as log settings of many images do. */
	if (fchown(pipes[1], user->uid, user->gid) != 0)
		fail("exec", "cannot give the app its output: %s", strerror(errno));
	pid = fork();
	if (pid < 0)
		fail("exec", "cannot start a process: %s", strerror(errno));
	if (pid == 0)
		child(config, user, pipes[1], errors[1]);
	close(pipes[1]);
	close(errors[1]);
	do
		got = read(errors[0], text, sizeof text - 1);
	while (got < 0 && errno == EINTR);
	close(errors[0]);
	if (got > 0) {
		text[got] = 0;
		fail(text, "%s", text + strlen(text) + 1);
	}
	fcntl(pipes[0], F_SETFL, O_NONBLOCK);
	*output = pipes[0];
	return pid;
}
