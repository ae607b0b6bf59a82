/* The agent: answers its host's requests from within the init, so that an answer proves that the init lives.
 *
 * Nothing here waits. What takes time (a freeze) is answered later; until then no further request is taken. */
#include "agent.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

static bool freeze_asked; /* by the host that is there now */

void agent_open(void)
{
	sigset_t pipe;

	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE); /* blocked, not ignored: children begin with an empty mask, but would inherit the ignoring */
	sigprocmask(SIG_BLOCK, &pipe, NULL);
	proc_open(".agent");
	channel_open();
}

void agent_prepare(struct pollset *set)
{
	channel_prepare(set);
	sessions_prepare(set);
	freeze_prepare(set);
}

void agent_handle(const struct pollset *set)
{
	freeze_handle();
	channel_handle(set);
	sessions_handle(set);
	channel_flush();
}

void agent_reaped(pid_t pid, int status)
{
	if (!freeze_reaped(pid, status))
		sessions_reaped(pid, status);
}

bool agent_busy(void)
{
	return freeze_asked;
}

/* The host is gone: what it had run ends, a freeze stays until a host thaws. */
void agent_lost(void)
{
	freeze_asked = false;
	sessions_abandon();
	identity_drop();
}

static void send_ok(enum kind request)
{
	unsigned char kind = (unsigned char)request;

	channel_send(OK, 0, &kind, 1);
}

static void send_error(unsigned request, const char *text)
{
	char payload[1100];
	int length = snprintf(payload, sizeof payload, "%c%.1000s", 'x', text);

	payload[0] = (char)request;
	channel_send(ERROR, 0, payload, (size_t)length);
}

static void answer(enum kind request, bool done, const struct problem *why)
{
	if (done)
		send_ok(request);
	else
		send_error(request, why->text);
}

static void hello(const unsigned char *payload)
{
	unsigned char answer[TOKEN_BYTES + 4];

	sessions_abandon();
	identity_drop();
	memcpy(answer, payload, TOKEN_BYTES);
	put32(answer + TOKEN_BYTES, AGENT_VERSION | (freeze_on() ? 1u << 16 : 0));
	channel_send(HELLO_BACK, 0, answer, sizeof answer);
}

static void pong(const unsigned char *payload)
{
	unsigned char answer[16];

	memcpy(answer, payload, 8);
	put64(answer + 8, (uint64_t)now_ms());
	channel_send(PONG, 0, answer, sizeof answer);
}

static void freeze(void)
{
	if (freeze_complete()) {
		send_ok(FREEZE);
		return;
	}
	freeze_asked = true;
	if (!freeze_on()) /* a freeze that an earlier host asked for may be under way */
		freeze_begin();
}

/* A freeze came to its end: `why` is NULL when everything stands still. */
void agent_frozen(const struct problem *why)
{
	if (!freeze_asked)
		return;
	freeze_asked = false;
	answer(FREEZE, why == NULL, why);
}

/* What was frozen goes on; a machine that is another one since then says so. */
void agent_thaw(void)
{
	freeze_end();
	identity_report();
}

static void thaw(int64_t epoch_ms)
{
	struct problem why;
	bool done = epoch_ms == 0 || clock_correct(epoch_ms, &why);

	agent_thaw();
	answer(THAW, done, &why);
}

static void request(unsigned kind, const unsigned char *payload, size_t length)
{
	static const size_t least[IDENTITY + 1] = {[HELLO] = TOKEN_BYTES + 2, [PING] = 8, [THAW] = 8, [ENTROPY] = 1, [IDENTITY] = 9};
	char text[ANSWER_ROOM - FRAME_HEADER];
	struct problem why;

	if (kind > IDENTITY || kind < HELLO) {
		send_error(kind, "this agent knows no such request");
		return;
	}
	if (length < least[kind] || (kind == ENTROPY && length > MAX_ENTROPY)) {
		send_error(kind, "the request is not of the right length");
		return;
	}
	switch (kind) {
	case HELLO:
		hello(payload);
		break;
	case PING:
		pong(payload);
		break;
	case STATISTICS:
		channel_send(STATISTICS_BACK, 0, text, statistics(text, sizeof text));
		break;
	case STOP:
		send_ok(STOP);
		app_stop();
		break;
	case FREEZE:
		freeze();
		break;
	case THAW:
		thaw((int64_t)(get64(payload) & INT64_MAX));
		break;
	case ENTROPY:
		answer(ENTROPY, entropy_add(payload, length, &why), &why);
		break;
	case IDENTITY:
		answer(IDENTITY, identity_part(payload, length, &why) != IDENTITY_FAILED, &why);
		break;
	}
}

/* A whole frame. There is room for an answer. */
void agent_frame(unsigned kind, uint32_t session, unsigned char *payload, size_t length)
{
	if (session == 0)
		request(kind, payload, length);
	else if (kind == OPEN)
		session_open(session, payload, length);
	else
		session_frame(kind, session, payload, length);
}
