/* Commands that the host has run: processes with pipes or a terminal, and data both ways within granted credit. */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

/* Sessions whose host is gone end by themselves; a new host need not wait for them. */
#define SLOTS (2 * MAX_SESSIONS)
#define MOST_RECORDS (MAX_PAYLOAD / 5 + 1)
#define START_MS 10000
#define LINGER_MS 1000
#define HANG_UP_MS 2000
#define KILL_EACH_MS 50
#define KILL_ROUNDS 40
#define CREDIT_STEP (8 * 1024)
#define MOST_CREDIT (1 << 30)
/* What is still taken from an output that others hold open when its time is up: what a pipe holds. */
#define LAST_BYTES (64 * 1024)
#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441
#endif

struct stream {
	int fd; /* -1 once it is at its end */
	int index; /* in the set that is waited for */
	long left; /* what is taken at most; -1: no end in sight */
};

struct session {
	bool used, told; /* told: its host is there and learns what happens */
	uint32_t number;
	pid_t pid; /* also the kernel's session */
	int outcome, outcome_index; /* of the start; -1 once it is known */
	bool terminal, over, closing, end_of_input;
	int status; /* as of wait(), once `over` */
	struct stream input, output, errors;
	char *waiting; /* INITIAL_CREDIT bytes at most for its input */
	size_t waiting_start, waiting_end;
	uint32_t owed; /* taken by the command, not yet granted to the host again */
	int64_t credit; /* what the host still takes */
	int64_t deadline; /* of the start, then of what follows the command's end */
	int64_t kill_at, look_at; /* while closing: when to SIGKILL (again), when to look what is left */
	int kill_rounds;
};

static struct session sessions[SLOTS];
static size_t first; /* whose turn to be the first to send it is */

struct request {
	char *argv[MOST_RECORDS + 1], *env[MOST_RECORDS + 1];
	size_t argc, envc;
	const char *cwd, *user;
	long rows, cols;
	bool terminal, whole;
};

static void close_stream(struct stream *stream)
{
	if (stream->fd >= 0)
		close(stream->fd);
	stream->fd = -1;
}

static void release(struct session *session)
{
	if (session->outcome >= 0)
		close(session->outcome);
	close_stream(&session->input);
	close_stream(&session->output);
	close_stream(&session->errors);
	free(session->waiting);
	session->used = false;
}

static struct session *find(uint32_t number)
{
	for (size_t i = 0; i < SLOTS; i++)
		if (sessions[i].used && sessions[i].told && sessions[i].number == number)
			return &sessions[i];
	return NULL;
}

static void send(const struct session *session, enum kind kind, const void *payload, size_t length)
{
	if (session->told)
		channel_send(kind, session->number, payload, length);
}

static void send_number(const struct session *session, enum kind kind, uint32_t number)
{
	unsigned char payload[4];

	put32(payload, number);
	send(session, kind, payload, sizeof payload);
}

/* The processes of a kernel's session. */
struct crowd {
	pid_t session;
	int signal; /* 0: only count them */
	size_t alive;
};

static void meet(const struct process *process, void *context)
{
	struct crowd *crowd = context;

	if (process->session != crowd->session || process->state == 'Z' || process->state == 'X')
		return;
	crowd->alive++;
	if (crowd->signal != 0)
		kill(process->pid, crowd->signal);
}

static size_t signal_all(const struct session *session, int signal)
{
	struct crowd crowd = {.session = session->pid, .signal = signal};

	if (signal != 0 && !session->over && session->outcome >= 0)
		kill(session->pid, signal); /* it may not have its session yet */
	processes_visit(meet, &crowd);
	return crowd.alive;
}

/* A hang-up for all of it, and in two seconds the end. */
static void hang_up(struct session *session)
{
	if (session->closing)
		return;
	session->closing = true;
	session->kill_at = now_ms() + HANG_UP_MS;
	close_stream(&session->input);
	signal_all(session, session->outcome >= 0 ? SIGKILL : SIGHUP);
	if (!freeze_on())
		signal_all(session, SIGCONT);
}

void sessions_abandon(void)
{
	for (size_t i = 0; i < SLOTS; i++)
		if (sessions[i].used) {
			sessions[i].told = false;
			hang_up(&sessions[i]);
		}
}

/* Time stood still for the commands. */
void sessions_postpone(int64_t milliseconds)
{
	for (size_t i = 0; i < SLOTS; i++)
		sessions[i].deadline += sessions[i].used ? milliseconds : 0;
}

static const char *value_of(const char *record, const char *name)
{
	size_t length = strlen(name);

	return strncmp(record, name, length) == 0 && record[length] == '=' ? record + length + 1 : NULL;
}

static const char *parse_record(struct request *request, char *record)
{
	const char *value;

	if ((value = value_of(record, "arg")) != NULL)
		request->argv[request->argc++] = (char *)value;
	if ((value = value_of(record, "env")) != NULL) {
		if (strchr(value, '=') == NULL || *value == '=')
			return "an environment entry has no name";
		request->env[request->envc++] = (char *)value;
	}
	if ((value = value_of(record, "cwd")) != NULL)
		request->cwd = value;
	if ((value = value_of(record, "user")) != NULL)
		request->user = value;
	if ((value = value_of(record, "tty")) != NULL)
		request->terminal = strcmp(value, "1") == 0;
	if ((value = value_of(record, "rows")) != NULL && !parse_number(value, UINT16_MAX, &request->rows))
		return "rows is not a number of lines";
	if ((value = value_of(record, "cols")) != NULL && !parse_number(value, UINT16_MAX, &request->cols))
		return "cols is not a number of columns";
	request->whole = strcmp(record, "end=") == 0;
	return NULL; /* names from newer hosts are ignored */
}

/* Returns what is wrong with it, or NULL. */
static const char *parse_request(struct request *request, char *payload, size_t length)
{
	const char *wrong = NULL;

	request->argc = request->envc = 0;
	request->cwd = request->user = NULL;
	request->rows = 24;
	request->cols = 80;
	request->terminal = request->whole = false;
	if (length == 0 || payload[length - 1] != 0)
		return "the request was cut";
	for (char *at = payload; at < payload + length && wrong == NULL; at += strlen(at) + 1)
		wrong = parse_record(request, at);
	if (wrong == NULL && !request->whole)
		wrong = "the request was cut";
	if (wrong == NULL && (request->argc == 0 || request->argv[0][0] == 0))
		wrong = "there is no command to run";
	request->argv[request->argc] = request->env[request->envc] = NULL;
	return wrong;
}

static bool pipe_for(int *ours, int *theirs, bool input)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) != 0)
		return false;
	*ours = ends[input ? 1 : 0];
	*theirs = ends[input ? 0 : 1];
	fcntl(*ours, F_SETFL, O_NONBLOCK);
	return true;
}

/* Both ends of a terminal; ours twice, as input and output. */
static bool open_terminal(struct session *session, const struct request *request, int *theirs)
{
	struct winsize size = {.ws_row = (unsigned short)request->rows, .ws_col = (unsigned short)request->cols};
	const int flags = O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC;
	int unlock = 0, master = open("/dev/pts/ptmx", flags);

	if (master < 0)
		master = open("/dev/ptmx", flags);
	session->output.fd = master;
	if (master < 0 || ioctl(master, TIOCSPTLCK, &unlock) != 0)
		return false;
	*theirs = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	session->input.fd = fcntl(master, F_DUPFD_CLOEXEC, 0);
	ioctl(master, TIOCSWINSZ, &size);
	return *theirs >= 0 && session->input.fd >= 0;
}

static bool connect_pipes(struct session *session, const struct request *request, struct command *command)
{
	if (request->terminal) {
		command->terminal = true;
		if (!open_terminal(session, request, &command->input))
			return false;
		command->output = command->errors = command->input;
		return true;
	}
	return pipe_for(&session->input.fd, &command->input, true) && pipe_for(&session->output.fd, &command->output, false) &&
	       pipe_for(&session->errors.fd, &command->errors, false);
}

static bool start(struct session *session, const struct request *request, struct problem *why)
{
	const struct config *config = app_config();
	struct command command = {.argv = (char **)request->argv, .env = (char **)request->env};

	command.cwd = request->cwd != NULL ? request->cwd : config->cwd;
	command.user = request->user != NULL ? request->user : config->user;
	command.input = command.output = command.errors = -1;
	if (connect_pipes(session, request, &command))
		session->pid = command_start(config, &command, &session->outcome, why);
	else
		failed(why, "exec", "cannot make a %s: %s", request->terminal ? "terminal" : "pipe", strerror(errno));
	if (command.errors >= 0 && command.errors != command.input)
		close(command.errors);
	if (command.output >= 0 && command.output != command.input)
		close(command.output);
	if (command.input >= 0)
		close(command.input);
	return session->pid > 0;
}

static void refuse(uint32_t number, const char *text)
{
	channel_send(REFUSED, number, text, strlen(text));
}

/* A free place, if need be that of a session whose host is gone: it is killed at once. */
static struct session *find_place(void)
{
	struct session *vacant = NULL, *abandoned = NULL;
	size_t told = 0;

	for (size_t i = 0; i < SLOTS; i++) {
		if (!sessions[i].used)
			vacant = &sessions[i];
		else if (!sessions[i].told)
			abandoned = &sessions[i];
		else
			told++;
	}
	if (told >= MAX_SESSIONS)
		return NULL;
	if (vacant == NULL && abandoned != NULL) {
		signal_all(abandoned, SIGKILL);
		release(abandoned);
		vacant = abandoned;
	}
	if (vacant != NULL)
		*vacant = (struct session){.outcome = -1, .input.fd = -1, .output.fd = -1, .errors.fd = -1};
	return vacant;
}

void session_open(uint32_t number, unsigned char *payload, size_t length)
{
	static struct request request;
	const char *wrong = parse_request(&request, (char *)payload, length);
	struct session *session = NULL;
	struct problem why;

	if (find(number) != NULL)
		wrong = "a command with this number runs already";
	else if (wrong == NULL && freeze_on())
		wrong = "the guest is frozen";
	if (wrong == NULL && (session = find_place()) == NULL)
		wrong = "too many commands run in this guest at once";
	if (wrong != NULL) {
		refuse(number, wrong);
		return;
	}
	session->number = number;
	session->terminal = request.terminal;
	session->credit = INITIAL_CREDIT;
	session->output.left = session->errors.left = -1;
	session->deadline = now_ms() + START_MS;
	session->used = session->told = true;
	if (!start(session, &request, &why)) {
		refuse(number, why.text);
		release(session);
	}
}

static void take_data(struct session *session, const unsigned char *data, size_t length)
{
	if (session->closing || session->end_of_input)
		return;
	if (session->input.fd < 0) { /* the command reads no more: its host need not wait */
		session->owed += (uint32_t)length;
		return;
	}
	if (session->waiting == NULL)
		session->waiting = malloc(INITIAL_CREDIT);
	if (session->waiting == NULL || length + session->owed > INITIAL_CREDIT - (session->waiting_end - session->waiting_start)) {
		hang_up(session); /* more than it was granted */
		return;
	}
	if (INITIAL_CREDIT - session->waiting_end < length) {
		session->waiting_end -= session->waiting_start;
		memmove(session->waiting, session->waiting + session->waiting_start, session->waiting_end);
		session->waiting_start = 0;
	}
	memcpy(session->waiting + session->waiting_end, data, length);
	session->waiting_end += length;
}

static void resize(const struct session *session, const unsigned char *payload)
{
	struct winsize size = {.ws_row = (unsigned short)get16(payload), .ws_col = (unsigned short)get16(payload + 2)};

	if (session->terminal && session->output.fd >= 0)
		ioctl(session->output.fd, TIOCSWINSZ, &size);
}

static void signal_foreground(const struct session *session, int number)
{
	pid_t group = session->pid;

	if (session->over || session->outcome >= 0 || number < 1 || number > 64)
		return;
	if (session->terminal && (session->output.fd < 0 || ioctl(session->output.fd, TIOCGPGRP, &group) != 0 || group <= 1))
		group = session->pid;
	kill(-group, number);
}

/* Anything of the host for a session but its beginning. */
void session_frame(unsigned kind, uint32_t number, const unsigned char *payload, size_t length)
{
	struct session *session = find(number);

	if (session == NULL)
		return;
	if (kind == DATA)
		take_data(session, payload, length);
	else if (kind == END_OF_DATA)
		session->end_of_input = true;
	else if (kind == RESIZE && length >= 4)
		resize(session, payload);
	else if (kind == SIGNAL && length >= 1)
		signal_foreground(session, payload[0]);
	else if (kind == CREDIT && length >= 4)
		session->credit = session->credit + get32(payload) > MOST_CREDIT ? MOST_CREDIT : session->credit + get32(payload);
	else if (kind == CLOSE)
		hang_up(session);
}

static bool wants_output(const struct session *session)
{
	size_t room;

	if (session->closing || !session->told)
		return true; /* it is thrown away */
	channel_data(&room);
	return session->outcome < 0 && session->credit > 0 && room > 0;
}

static bool frozen_start(const struct session *session)
{
	return session->outcome >= 0 && freeze_on();
}

static int64_t next_time(const struct session *session)
{
	if (session->closing && session->over && session->look_at < session->kill_at)
		return session->look_at;
	if (session->closing)
		return session->kill_at;
	if (session->over && session->output.left >= 0)
		return 0; /* the rest of the output is taken without waiting for it */
	if (session->outcome >= 0 || session->over)
		return session->deadline;
	return INT64_MAX;
}

static void prepare(struct session *session, struct pollset *set)
{
	bool output = wants_output(session), may_tell = channel_answer_room() || !session->told;
	bool input = session->waiting_end > session->waiting_start || (session->end_of_input && session->terminal && session->outcome < 0);

	session->outcome_index = poll_add(set, may_tell ? session->outcome : -1, POLLIN);
	session->input.index = poll_add(set, input ? session->input.fd : -1, POLLOUT);
	session->output.index = poll_add(set, output ? session->output.fd : -1, POLLIN);
	session->errors.index = poll_add(set, output ? session->errors.fd : -1, POLLIN);
	/* A time that has come but can't be acted upon until the host takes something must not wake us again and again. */
	if (may_tell && (output || session->outcome >= 0) && !frozen_start(session))
		poll_until(set, next_time(session));
}

void sessions_prepare(struct pollset *set)
{
	for (size_t i = 0; i < SLOTS; i++)
		if (sessions[i].used)
			prepare(&sessions[i], set);
}

/* Whether the program runs. False when the session is no more. */
static bool learn_outcome(struct session *session, int64_t now)
{
	struct problem why;
	int outcome = command_outcome(session->outcome, &why);

	if (outcome == 0 && now >= session->deadline && !frozen_start(session)) {
		signal_all(session, SIGKILL);
		failed(&why, "exec", "the command did not start within %d seconds", START_MS / 1000);
		outcome = -1;
	}
	if (outcome == 1) {
		close(session->outcome);
		session->outcome = -1;
		session->deadline = now + LINGER_MS; /* of interest if it is over already */
		send_number(session, STARTED, (uint32_t)session->pid);
	} else if (outcome < 0) {
		send(session, REFUSED, why.text, strlen(why.text));
		release(session);
		return false;
	}
	return true;
}

static void end_input(struct session *session)
{
	struct termios settings;

	if (session->terminal && session->input.fd >= 0 && tcgetattr(session->input.fd, &settings) == 0 &&
	    (settings.c_lflag & ICANON) != 0 && write(session->input.fd, &settings.c_cc[VEOF], 1) < 0 && errno == EAGAIN)
		return;
	close_stream(&session->input);
}

static void write_input(struct session *session)
{
	size_t waiting = session->waiting_end - session->waiting_start;

	if (waiting > 0 && session->input.fd >= 0) {
		ssize_t written = write(session->input.fd, session->waiting + session->waiting_start, waiting);

		if (written < 0 && errno != EAGAIN && errno != EINTR) { /* nobody reads any more */
			close_stream(&session->input);
			written = (ssize_t)waiting;
		}
		if (written > 0) {
			session->waiting_start += (size_t)written;
			session->owed += (uint32_t)written;
			waiting -= (size_t)written;
		}
	}
	if (waiting == 0) {
		session->waiting_start = session->waiting_end = 0;
		if (session->end_of_input && session->outcome < 0)
			end_input(session);
	}
	if (session->owed > 0 && (session->owed >= CREDIT_STEP || waiting == 0) && channel_answer_room()) {
		send_number(session, CREDIT_BACK, session->owed);
		session->owed = 0;
	}
}

/* Moves what the command wrote to the host, or nowhere once nobody wants it. */
static void pump(struct session *session, struct stream *stream, enum kind kind)
{
	bool wanted = session->told && !session->closing;
	char nowhere[4096], *data = nowhere;
	size_t room = sizeof nowhere;

	if (wanted) {
		data = channel_data(&room);
		if (session->credit < (int64_t)room)
			room = (size_t)session->credit;
	}
	if (stream->left >= 0 && (size_t)stream->left < room)
		room = (size_t)stream->left;
	if (room > 0) {
		ssize_t got = read(stream->fd, data, room);

		if (got > 0 && wanted) {
			channel_data_sent(kind, session->number, (size_t)got);
			session->credit -= got;
		}
		if (got > 0 && stream->left >= 0)
			stream->left -= got;
		if (got == 0 || (got < 0 && errno != EINTR && (errno != EAGAIN || stream->left >= 0)))
			close_stream(stream);
	}
	if (stream->left == 0)
		close_stream(stream);
}

static void kill_rest(struct session *session, int64_t now)
{
	if (now < session->kill_at)
		return;
	session->kill_rounds++;
	session->kill_at = now + KILL_EACH_MS;
	signal_all(session, SIGKILL);
}

static bool finished(struct session *session, int64_t now)
{
	if (session->kill_rounds > KILL_ROUNDS) /* not even SIGKILL ends it: stuck in the kernel */
		return true;
	if (!session->over || !session->closing)
		return session->over && session->output.fd < 0 && session->errors.fd < 0;
	if (now < session->look_at)
		return false;
	session->look_at = now + KILL_EACH_MS;
	return signal_all(session, 0) == 0;
}

static void say_exit(const struct session *session)
{
	int status = session->over ? session->status : SIGKILL;
	unsigned char payload[2] = {WIFSIGNALED(status)};

	payload[1] = (unsigned char)(payload[0] != 0 ? WTERMSIG(status) : WEXITSTATUS(status));
	send(session, EXIT, payload, sizeof payload);
}

static void handle(struct session *session, const struct pollset *set, int64_t now)
{
	bool may_tell = channel_answer_room() || !session->told;

	if (session->outcome >= 0 && may_tell && !learn_outcome(session, now))
		return;
	write_input(session);
	if (session->over && session->deadline <= now && session->output.left < 0)
		session->output.left = session->errors.left = LAST_BYTES;
	bool last = session->output.left >= 0;
	if (session->output.fd >= 0 && wants_output(session) && (last || poll_got(set, session->output.index) != 0))
		pump(session, &session->output, OUTPUT);
	if (session->errors.fd >= 0 && wants_output(session) && (last || poll_got(set, session->errors.index) != 0))
		pump(session, &session->errors, ERRORS);
	if (session->closing)
		kill_rest(session, now);
	if (session->outcome < 0 && (channel_answer_room() || !session->told) && finished(session, now)) {
		say_exit(session);
		release(session);
	}
}

void sessions_handle(const struct pollset *set)
{
	int64_t now = now_ms();

	first = (first + 1) % SLOTS;
	for (size_t i = 0; i < SLOTS; i++) {
		struct session *session = &sessions[(first + i) % SLOTS];

		if (session->used)
			handle(session, set, now);
	}
}

/* A child of the init ended. False when it was none of these. */
bool sessions_reaped(pid_t pid, int status)
{
	for (size_t i = 0; i < SLOTS; i++) {
		struct session *session = &sessions[i];

		if (!session->used || session->over || session->pid != pid)
			continue;
		session->over = true;
		session->status = status;
		if (session->outcome < 0)
			session->deadline = now_ms() + LINGER_MS;
		return true;
	}
	return false;
}
