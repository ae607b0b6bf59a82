/* The beginning of a command that the host wants run: its request, its pipes or terminal, its place among the sessions. */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#define MOST_RECORDS (MAX_PAYLOAD / 5 + 1)
#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441
#endif

struct request {
	char *argv[MOST_RECORDS + 1], *env[MOST_RECORDS + 1];
	size_t argc, envc;
	const char *cwd, *user;
	long rows, cols;
	bool terminal, whole;
};

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
		session_kill(abandoned);
		session_release(abandoned);
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

	if (session_find(number) != NULL)
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
		session_release(session);
	}
}
