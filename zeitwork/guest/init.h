/* Zeitwork's guest init: what the files beside this one share. Linux only, no libc beyond POSIX and Linux calls. */
#ifndef ZEITWORK_INIT_H
#define ZEITWORK_INIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* console.c: everything written to the serial console goes through one bounded buffer that never blocks. */
void console_open(void);
int console_fd(void);
bool console_pending(void);
size_t console_room(void);
void console_put(const char *data, size_t length);
void console_write(void);
void console_flush(int timeout_ms);
void report_as(const char *nonce);
void report(const char *format, ...) __attribute__((format(printf, 1, 2)));
void report_error(const char *stage, const char *message);

/* config.c: the config drive, version 1. */
struct config {
	const char *nonce, *instance, *hostname, *v4, *v4gw, *v6, *v6gw, *cwd, *user;
	char **argv, **env, **dns; /* NULL-terminated; env has room for CONFIG_SPARE_ENV more */
	size_t argc, envc, dnsc;
	int stop_signal;
	int64_t stop_timeout_ms, epoch_ms; /* epoch_ms is 0 when absent */
};
#define CONFIG_SPARE_ENV 4
void config_read(const char *device, struct config *config);

/* devices.c: kernel modules, drives, the power button. */
void modules_load(void);
bool drives_none(void);
void drive_wait(const char *device);
size_t power_open(int *fds, size_t room);
bool power_pressed(int fd);

/* mounts.c */
void mounts_early(void);
void mounts_root(void);
void mounts_finish(void);
void make_directories(const char *path);

/* network.c */
void network_up(const struct config *config);
void network_files(const struct config *config);

/* user.c: who the app runs as, by the rules of Docker. */
#define USER_GROUPS 64
struct user {
	uid_t uid;
	gid_t gid;
	gid_t groups[USER_GROUPS];
	size_t group_count;
	char home[256];
};
void user_resolve(const char *text, struct user *user);

/* app.c */
pid_t app_start(struct config *config, const struct user *user, int *output);

/* init.c */
_Noreturn void fail(const char *stage, const char *format, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void halt(void);

/* basics.c */
int64_t now_ms(void);
void sleep_ms(int milliseconds);
bool cmdline_has(const char *word);
bool write_file(const char *path, const char *text);
bool parse_number(const char *text, long maximum, long *value);

#endif
