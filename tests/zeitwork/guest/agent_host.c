/* Runs the guest's agent here, on a unix socket instead of a vsock: agent_host SOCKET [USER].
 *
 * Commands run as USER (default: who started this) on this machine. Its own processes, clock, addresses and entropy stay as
 * they are: a freeze, a new identity and so on are only noted. It prints what the init would report; SIGTERM ends it. */
#include "agent.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static struct config config;
static bool frozen;
static volatile sig_atomic_t ending;

struct config *app_config(void)
{
	return &config;
}

pid_t app_pid(void)
{
	return getpid();
}

bool app_started(void)
{
	return true;
}

void app_stop(void)
{
	freeze_end();
	report("stopping");
}

void report_as(const char *nonce)
{
	(void)nonce;
}

void report(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf("\n");
	fflush(stdout);
}

bool network_move(const struct config *new, struct problem *why)
{
	return strcmp(new->hostname, "immovable") != 0 || failed(why, "network", "cannot move to %s", new->hostname);
}

bool network_files(const struct config *new, struct problem *why)
{
	(void)new;
	(void)why;
	return true;
}

/* command.c makes the working directory of an app, which commands of the host never ask for. */
void make_directories(const char *path)
{
	(void)path;
}

bool entropy_add(const unsigned char *data, size_t length, struct problem *why)
{
	(void)data;
	(void)why;
	report("entropy bytes=%zu", length);
	return true;
}

bool clock_correct(int64_t epoch_ms, struct problem *why)
{
	(void)why;
	report("clock ms=%lld", (long long)epoch_ms);
	return true;
}

void freeze_begin(void)
{
	frozen = true;
	agent_frozen(NULL);
}

void freeze_end(void)
{
	frozen = false;
}

bool freeze_on(void)
{
	return frozen;
}

bool freeze_complete(void)
{
	return frozen;
}

void freeze_prepare(struct pollset *set)
{
	(void)set;
}

void freeze_handle(void)
{
}

bool freeze_reaped(pid_t pid, int status)
{
	(void)pid;
	(void)status;
	return false;
}

static void wake(int signal)
{
	if (signal == SIGTERM)
		ending = 1; /* SIGCHLD only ends poll() */
}

static int listen_at(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
	if (fd < 0 || strlen(path) >= sizeof address.sun_path || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
	    listen(fd, 16) != 0) {
		perror(path);
		exit(1);
	}
	return fd;
}

static void configure(const char *user)
{
	static char *argv[] = {(char *)"app", NULL}, *env[] = {(char *)"APP=native", (char *)"COLOUR=blue", NULL}, *dns[] = {NULL};
	static char own[64];

	snprintf(own, sizeof own, "%u:%u", getuid(), getgid());
	config = (struct config){.nonce = "native", .instance = "", .hostname = "native", .cwd = "/"};
	config.user = user != NULL ? user : own;
	/* Allocated, since a new identity frees them. */
	config.argv = memcpy(malloc(sizeof argv), argv, sizeof argv);
	config.env = memcpy(malloc(sizeof env), env, sizeof env);
	config.dns = memcpy(malloc(sizeof dns), dns, sizeof dns);
	config.argc = 1;
	config.envc = 2;
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = wake};
	sigset_t blocked, waiting;

	if (argc < 2 || argc > 3) {
		fprintf(stderr, "usage: agent_host SOCKET [USER]\n");
		return 2;
	}
	configure(argv[2]);
	sigaction(SIGCHLD, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGCHLD);
	sigaddset(&blocked, SIGTERM);
	sigaddset(&blocked, SIGPIPE);
	sigprocmask(SIG_BLOCK, &blocked, &waiting);
	sigaddset(&waiting, SIGPIPE);
	channel_listen(listen_at(argv[1]));
	while (!ending) {
		struct pollset set = {.until = INT64_MAX};
		struct timespec wait;
		int status;
		pid_t pid;

		agent_prepare(&set);
		int64_t left = set.until == INT64_MAX ? 1000 : set.until - now_ms();
		left = left < 0 ? 0 : left > 1000 ? 1000 : left;
		wait = (struct timespec){left / 1000, left % 1000 * 1000000};
		if (ppoll(set.items, set.count, &wait, &waiting) < 0)
			for (size_t i = 0; i < set.count; i++)
				set.items[i].revents = 0;
		while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
			agent_reaped(pid, status);
		agent_handle(&set);
	}
	agent_lost();
	return 0;
}
