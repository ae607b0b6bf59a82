/* Runs the init's own reader of config drives and users outside a guest: reader DRIVE, or reader --user NAME in a chroot. */
#include "init.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The init's own one halts the machine. */
_Noreturn void fail(const char *stage, const char *format, ...)
{
	va_list arguments;

	printf("error%c%s%c", 0, stage, 0);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	fflush(stdout);
	exit(1);
}

static void show(const char *name, const char *value)
{
	if (value != NULL)
		printf("%s=%s%c", name, value, 0);
}

int main(int argc, char **argv)
{
	struct config config;
	struct user user;

	if (argc == 3 && strcmp(argv[1], "--user") == 0) {
		user_resolve(argv[2], &user);
		printf("%u:%u %s", user.uid, user.gid, user.home);
		for (size_t i = 0; i < user.group_count; i++)
			printf(" %u", user.groups[i]);
		return 0;
	}
	config_read(argv[1], &config);
	show("nonce", config.nonce);
	show("instance", config.instance);
	show("hostname", config.hostname);
	show("v4", config.v4);
	show("v4gw", config.v4gw);
	show("v6", config.v6);
	show("v6gw", config.v6gw);
	for (char **item = config.dns; *item != NULL; item++)
		show("dns", *item);
	for (char **item = config.argv; *item != NULL; item++)
		show("arg", *item);
	for (char **item = config.env; *item != NULL; item++)
		show("env", *item);
	show("cwd", config.cwd);
	show("user", config.user);
	printf("stop_signal=%d%c", config.stop_signal, 0);
	printf("stop_timeout_ms=%lld%c", (long long)config.stop_timeout_ms, 0);
	printf("epoch_ms=%lld%c", (long long)config.epoch_ms, 0);
	return 0;
}
