/* Zeitwork's guest init: what the files beside this one share. Linux only, no libc beyond POSIX and Linux calls. */
#ifndef ZEITWORK_INIT_H
#define ZEITWORK_INIT_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What one turn of the init's loop waits for; see basics.c. */
#define POLL_ROOM 192
struct pollset {
	struct pollfd items[POLL_ROOM];
	size_t count;
	int64_t until; /* when to go on in any case; INT64_MAX: never */
};

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

/* Why something could not be done: the stage that the console names, and words for people. */
struct problem {
	char stage[16];
	char text[1024];
};

/* config.c: the config drive, version 1. */
#define CONFIG_HEADER 16
#define CONFIG_MAXIMUM (1024 * 1024)
struct config {
	const char *nonce, *instance, *hostname, *mac, *v4, *v4gw, *v6, *v6gw, *cwd, *user;
	char **argv, **env, **dns; /* NULL-terminated */
	size_t argc, envc, dnsc;
	int stop_signal;
	int64_t stop_timeout_ms, epoch_ms; /* epoch_ms is 0 when absent */
	char *data; /* what the texts point into */
};
bool config_read(const char *device, struct config *config, struct problem *why);
bool config_parse(const unsigned char *drive, size_t length, struct config *config, struct problem *why);
void config_free(struct config *config);

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
bool network_up(const struct config *config, struct problem *why);
bool network_files(const struct config *config, struct problem *why);
bool network_move(const struct config *config, struct problem *why);

/* user.c: who the app runs as, by the rules of Docker. */
#define USER_GROUPS 64
struct user {
	uid_t uid;
	gid_t gid;
	gid_t groups[USER_GROUPS];
	size_t group_count;
	char home[256];
};
bool user_resolve(const char *text, struct user *user, struct problem *why);

/* command.c: running a program of the image. */
struct command {
	char **argv, **env; /* NULL-terminated; env goes over that of the configuration and may be NULL */
	const char *cwd, *user;
	bool make_cwd, terminal; /* terminal: `input` becomes the controlling terminal */
	int input, output, errors;
};
pid_t command_start(const struct config *config, const struct command *command, int *outcome, struct problem *why);
int command_outcome(int outcome, struct problem *why);

/* agent.c: the part of the init that talks with the host, inside the init's own loop. */
void agent_open(void);
void agent_prepare(struct pollset *set);
void agent_handle(const struct pollset *set);
void agent_reaped(pid_t pid, int status);
void agent_thaw(void);

/* init.c */
struct config *app_config(void);
pid_t app_pid(void);
bool app_started(void);
void app_stop(void);
_Noreturn void fail(const char *stage, const char *format, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void halt(void);

/* basics.c */
int64_t now_ms(void);
void sleep_ms(int milliseconds);
bool cmdline_has(const char *word);
bool write_file(const char *path, const char *text);
bool parse_number(const char *text, long maximum, long *value);
bool failed(struct problem *why, const char *stage, const char *format, ...) __attribute__((format(printf, 3, 4)));
int poll_add(struct pollset *set, int fd, short events);
void poll_until(struct pollset *set, int64_t when);
short poll_got(const struct pollset *set, int index);

#endif
