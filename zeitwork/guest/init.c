/* PID 1 of every Zeitwork guest: makes the app's root, starts the app, watches over it, and says why it ended.
 *
 * The host reads lines `[zeitwork NONCE] <verb> key=value ...` from the console; __init__.py beside this file lists them. */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define POWER_FDS 4
#define KILL_WAIT_MS 2000
#define DRAIN_MS 1000
#define FLUSH_MS 3000

static struct {
	pid_t pid; /* 0 before the start and after the end */
	int outcome; /* tells whether its program runs; -1 once that is known */
	int output; /* read end of the app's stdout and stderr; -1 once it is at its end */
	int64_t kill_at; /* when to SIGKILL it; 0 while no stop was asked for */
} app = {.outcome = -1, .output = -1};

static struct config config;
static int signals = -1;
static int power[POWER_FDS];
static size_t power_count;

/* Moves what the app wrote to the console's buffer. Returns false when there is nothing more for now. */
static bool pump(void)
{
	char data[4096];
	size_t room = console_room();

	if (app.output < 0 || room == 0)
		return false;
	ssize_t got = read(app.output, data, room < sizeof data ? room : sizeof data);
	if (got > 0) {
		console_put(data, (size_t)got);
		console_write();
		return true;
	}
	if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
		close(app.output);
		app.output = -1;
	}
	return false;
}

/* What was written before an end belongs before its report, as long as the console takes it. */
static void drain(int timeout_ms)
{
	int64_t deadline = now_ms() + timeout_ms;

	while (app.output >= 0 && now_ms() < deadline) {
		if (pump())
			continue;
		if (app.output < 0 || console_room() > 0)
			return;
		struct pollfd item = {.fd = console_fd(), .events = POLLOUT};
		poll(&item, 1, 20);
		console_write();
	}
}

static void kill_everything(void)
{
	int64_t deadline = now_ms() + KILL_WAIT_MS;

	kill(-1, SIGKILL);
	while (now_ms() < deadline) {
		pid_t pid = waitpid(-1, NULL, WNOHANG);

		if (pid < 0 && errno == ECHILD)
			return;
		if (pid == 0)
			sleep_ms(2);
	}
}

_Noreturn void halt(void)
{
	kill_everything();
	drain(DRAIN_MS);
	mounts_finish();
	report("halting");
	console_flush(FLUSH_MS);
	/* Firecracker ends at a reset only; QEMU is started with -no-reboot, so one call serves both. */
	reboot(cmdline_has("zeitwork.halt=poweroff") ? RB_POWER_OFF : RB_AUTOBOOT);
	for (;;)
		pause();
}

_Noreturn void fail(const char *stage, const char *format, ...)
{
	char message[1024];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(message, sizeof message, format, arguments);
	va_end(arguments);
	report_error(stage, message);
	halt();
}

struct config *app_config(void)
{
	return &config;
}

pid_t app_pid(void)
{
	return app.pid;
}

bool app_started(void)
{
	return app.pid > 0 && app.outcome < 0;
}

void app_stop(void)
{
	if (app.kill_at != 0 || app.pid <= 0)
		return; /* the first request counts: a second one must not lengthen the wait */
	agent_thaw();
	report("stopping signal=%d", config.stop_signal);
	kill(app.pid, config.stop_signal);
	app.kill_at = now_ms() + config.stop_timeout_ms;
	if (app.kill_at == 0)
		app.kill_at = 1;
}

static void start_app(void)
{
	struct command command = {.argv = config.argv, .cwd = config.cwd, .user = config.user, .make_cwd = true};
	struct problem why;
	int ends[2];

	command.input = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (command.input < 0 || pipe2(ends, O_CLOEXEC) != 0)
		fail("exec", "cannot connect the app's output: %s", strerror(errno));
	command.output = command.errors = ends[1];
	app.pid = command_start(&config, &command, &app.outcome, &why);
	if (app.pid < 0)
		fail(why.stage, "%s", why.text);
	close(command.input);
	close(ends[1]);
	fcntl(ends[0], F_SETFL, O_NONBLOCK);
	app.output = ends[0];
}

static void learn_outcome(void)
{
	struct problem why;
	int outcome = app.outcome < 0 ? 0 : command_outcome(app.outcome, &why);

	if (outcome < 0)
		fail(why.stage, "%s", why.text);
	if (outcome == 0)
		return;
	close(app.outcome);
	app.outcome = -1;
	report("started pid=%d", app.pid);
}

/* Whether the kernel has killed a process for want of memory, which the app's SIGKILL alone does not tell. */
static bool out_of_memory(void)
{
	char line[128];
	long count = 0;
	FILE *statistics = fopen("/proc/vmstat", "re");

	while (statistics != NULL && count == 0 && fgets(line, sizeof line, statistics) != NULL)
		if (strncmp(line, "oom_kill ", 9) == 0) {
			line[strcspn(line, "\n")] = 0;
			if (!parse_number(line + 9, INT32_MAX, &count))
				break;
		}
	if (statistics != NULL)
		fclose(statistics);
	return count > 0;
}

static void reap(void)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid != app.pid) {
			agent_reaped(pid, status); /* or an orphan that became ours */
			continue;
		}
		learn_outcome();
		app.pid = 0;
		drain(DRAIN_MS);
		if (WIFSIGNALED(status))
			report("exited signal=%d%s", WTERMSIG(status), out_of_memory() ? " oom=1" : "");
		else
			report("exited status=%d", WEXITSTATUS(status));
		halt();
	}
}

static void on_signals(void)
{
	struct signalfd_siginfo info;

	while (read(signals, &info, sizeof info) == (ssize_t)sizeof info) {
		if (info.ssi_signo == SIGCHLD)
			reap();
		else
			app_stop(); /* SIGINT is Ctrl-Alt-Del; the others come from commands such as poweroff */
	}
}

static void open_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGPWR);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	reboot(RB_DISABLE_CAD); /* Ctrl-Alt-Del becomes SIGINT to us */
}

static int timeout_until(int64_t until)
{
	int64_t left = until - now_ms();

	return until == INT64_MAX ? -1 : left <= 0 ? 0 : left > 60000 ? 60000 : (int)left;
}

static void on_power(const struct pollset *set, const int *buttons)
{
	for (size_t i = 0; i < power_count; i++) {
		short events = poll_got(set, buttons[i]);

		if (events != 0 && power_pressed(power[i]))
			app_stop();
		else if ((events & (POLLERR | POLLHUP)) != 0)
			power[i] = -1; /* unplugged: poll would return at once for ever */
	}
}

static void turn(void)
{
	struct pollset set = {.until = INT64_MAX};
	int buttons[POWER_FDS];
	int signalled = poll_add(&set, signals, POLLIN);
	int outcome = poll_add(&set, app.outcome, POLLIN);
	/* A full buffer takes no more from the app until the console took some. */
	int output = poll_add(&set, console_room() > 0 ? app.output : -1, POLLIN);
	int console = poll_add(&set, console_pending() ? console_fd() : -1, POLLOUT);

	for (size_t i = 0; i < power_count; i++)
		buttons[i] = poll_add(&set, power[i], POLLIN);
	agent_prepare(&set);
	if (app.kill_at != 0 && app.kill_at <= now_ms()) {
		kill(app.pid, SIGKILL);
		poll_until(&set, now_ms() + 1000);
	} else if (app.kill_at != 0) {
		poll_until(&set, app.kill_at);
	}
	if (poll(set.items, set.count, timeout_until(set.until)) < 0)
		return;
	if (poll_got(&set, console) != 0)
		console_write();
	if (poll_got(&set, outcome) != 0)
		learn_outcome();
	if (poll_got(&set, output) != 0)
		pump();
	on_power(&set, buttons);
	if (poll_got(&set, signalled) != 0)
		on_signals();
	agent_handle(&set);
}

/* Without swap, a kernel that runs short of memory reads the app's program from its drive again and again for minutes
 * before it kills anything. Told to keep what was used in the last second, it kills at once. Kernels before 6.1 lack it. */
static void end_thrashing(void)
{
	if (write_file("/sys/kernel/mm/lru_gen/enabled", "y"))
		write_file("/sys/kernel/mm/lru_gen/min_ttl_ms", "1000");
}

static void set_clock(int64_t epoch_ms)
{
	struct timespec now, wanted = {epoch_ms / 1000, (long)(epoch_ms % 1000) * 1000000};

	if (epoch_ms == 0 || clock_gettime(CLOCK_REALTIME, &now) != 0)
		return;
	if ((int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 < epoch_ms - 1000)
		clock_settime(CLOCK_REALTIME, &wanted);
}

int main(void)
{
	struct utsname kernel;
	struct problem why;

	umask(0);
	mounts_early();
	console_open();
	open_signals();
	uname(&kernel);
	report("booted kernel=%s", kernel.release);
	end_thrashing();
	modules_load();
	power_count = power_open(power, POWER_FDS);
	if (cmdline_has("zeitwork.probe=1") || drives_none()) {
		report("probe ok");
		halt();
	}
	drive_wait("/dev/vda");
	drive_wait("/dev/vdb");
	drive_wait("/dev/vdc");
	if (!config_read("/dev/vdc", &config, &why))
		fail(why.stage, "%s", why.text);
	report_as(config.nonce);
	set_clock(config.epoch_ms);
	mounts_root();
	agent_open();
	report("mounted");
	if (!network_up(&config, &why))
		fail(why.stage, "%s", why.text);
	if (!network_files(&config, &why))
		fail(why.stage, "%s", why.text);
	report("network");
	start_app();
	for (;;)
		turn();
}
