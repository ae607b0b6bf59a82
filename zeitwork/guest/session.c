/* Commands that the host has run: processes with pipes or a terminal, and data both ways within granted credit. */
#include "session.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define LINGER_MS 1000
#define HANG_UP_MS 2000
#define KILL_EACH_MS 50
#define KILL_ROUNDS 40
#define LOOK_PAUSES 4
#define CREDIT_STEP (8 * 1024)
#define MOST_CREDIT (1 << 30)
/* What is still taken from an output that others hold open when its time is up: what a pipe holds. */
#define LAST_BYTES (64 * 1024)

struct session sessions[SLOTS];
static size_t first; /* whose turn to be the first to send it is */

static void close_stream(struct stream *stream)
{
	if (stream->fd >= 0)
		close(stream->fd);
	stream->fd = -1;
}

void session_release(struct session *session)
{
	if (session->outcome >= 0)
		close(session->outcome);
	close_stream(&session->input);
	close_stream(&session->output);
	close_stream(&session->errors);
	free(session->waiting);
	session->used = false;
}

struct session *session_find(uint32_t number)
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
	int signal;
};

static int64_t look_at; /* when to look again what is left of the sessions that close */

static bool lives(const struct process *process)
{
	return process->state != 'Z' && process->state != 'X';
}

static void meet(const struct process *process, void *context)
{
	const struct crowd *crowd = context;

	if (process->session == crowd->session && lives(process))
		kill(process->pid, crowd->signal);
}

static void signal_all(const struct session *session, int signal)
{
	struct crowd crowd = {.session = session->pid, .signal = signal};

	if (!session->over && session->outcome >= 0)
		kill(session->pid, signal); /* it may not have its session yet */
	processes_visit(meet, &crowd);
}

void session_kill(const struct session *session)
{
	signal_all(session, SIGKILL);
}

/* A hang-up for all of it, and in two seconds the end. */
static void hang_up(struct session *session)
{
	if (session->closing)
		return;
	session->closing = true;
	session->gone = false;
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
	struct session *session = session_find(number);

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
	if (session->closing && session->over && look_at < session->kill_at)
		return look_at;
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
		session_release(session);
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

static bool finished(const struct session *session)
{
	if (session->kill_rounds > KILL_ROUNDS) /* not even SIGKILL ends it: stuck in the kernel */
		return true;
	if (!session->over || !session->closing)
		return session->over && session->output.fd < 0 && session->errors.fd < 0;
	return session->gone;
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
	if (session->outcome < 0 && (channel_answer_room() || !session->told) && finished(session)) {
		say_exit(session);
		session_release(session);
	}
}

static void find(const struct process *process, void *context)
{
	(void)context;
	for (size_t i = 0; i < SLOTS; i++)
		if (sessions[i].pid == process->session && lives(process))
			sessions[i].gone = false;
}

/* One look for all of them, and then a pause several times as long as it took: the host's requests wait meanwhile. */
static void look(int64_t began)
{
	for (size_t i = 0; i < SLOTS; i++)
		sessions[i].gone = true;
	processes_visit(find, NULL);
	look_at = now_ms() + KILL_EACH_MS + LOOK_PAUSES * (now_ms() - began);
}

void sessions_handle(const struct pollset *set)
{
	int64_t now = now_ms();

	for (size_t i = 0; i < SLOTS && now >= look_at; i++)
		if (sessions[i].used && sessions[i].closing && sessions[i].over)
			look(now);
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
