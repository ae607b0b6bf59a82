/* Runs the init's own reader of config drives and users outside a guest: reader DRIVE, or reader --user NAME in a chroot. */
#include "init.h"

#include <stdio.h>
#include <string.h>

static int refuse(const struct problem *why)
{
	printf("error%c%s%c%s", 0, why->stage, 0, why->text);
	return 1;
}

static void show(const char *name, const char *value)
{
	if (value != NULL)
		printf("%s=%s%c", name, value, 0);
}

int main(int argc, char **argv)
{
	struct config config;
	struct problem why;
	struct user user;

	if (argc == 3 && strcmp(argv[1], "--user") == 0) {
		if (!user_resolve(argv[2], &user, &why))
			return refuse(&why);
		printf("%u:%u %s", user.uid, user.gid, user.home);
		for (size_t i = 0; i < user.group_count; i++)
			printf(" %u", user.groups[i]);
		return 0;
	}
	if (!config_read(argv[1], &config, &why))
		return refuse(&why);
	show("nonce", config.nonce);
	show("instance", config.instance);
	show("hostname", config.hostname);
	show("mac", config.mac);
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
