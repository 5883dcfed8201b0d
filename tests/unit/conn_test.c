/* A client's connection where the kernel's buffers and a busy machine would hide what it does: every socket is small,
 * and every event is made by hand. */
#include PROXY_C
#include "guard.h"

static int client;                      /* the other end of the only connection */

static struct conn *
conn_make(enum conn_state state)
{
	int pair[2], small = 4096;

	assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
	setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
	client = pair[1];
	conn_new(pair[0], &net.listeners[0]);
	assert(LIST_FIRST(&conn_list) != NULL && (LIST_FIRST(&conn_list)->req = req_new(LIST_FIRST(&conn_list))) != NULL);
	LIST_FIRST(&conn_list)->state = state;
	LIST_FIRST(&conn_list)->req->head.method = SLICE("GET");
	LIST_FIRST(&conn_list)->req->head.minor = 1;
	LIST_FIRST(&conn_list)->req->head.keep_alive = true;
	return LIST_FIRST(&conn_list);
}

static size_t
client_read(void)
{
	static char block[64 * 1024];
	ssize_t n = read(client, block, sizeof block);

	return n > 0 ? (size_t)n : 0;
}

/* The largest answer of our own to a client that reads slowly: all of it comes, and the connection goes on. */
static void
test_answer(void)
{
	struct conn *c = conn_make(CONN_DECIDE);
	struct req *r = c->req;
	size_t all = 0, n;
	static char text[256 * 1024 - 1];

	memset(text, 'x', sizeof text);
	r->action = REQ_REPLY;
	r->status = 200;
	r->answer_json = true;
	assert(buf_add(&r->answer, text, sizeof text));
	conn_begin_answer(c);
	do {
		if (c->state == CONN_CLOSED)
			break;
		c->peer.watch.writable = true;
		conn_advance(c);
		all += n = client_read();
	} while (n != 0 || c->state == CONN_ANSWER);
	test_result(all > sizeof text && c->state == CONN_HEAD, "an answer of 256 KiB, and a client that is slow",
	    "%zu bytes, state %d", all, c->state);
	conn_close(c, true);
	close(client);
	loop_run_deferred();
}

/* One agent's connections over its share: each is told so and closed, and the others' places stay free. */
static void
test_share(void)
{
	size_t served = 0, closed = 0;
	unsigned max = 0;

	conn_max = 16;                  /* a quarter and one: five */
	for (int i = 0; i < 16; i++) {
		struct conn *c = conn_make(CONN_DECIDE);
		struct req *r = c->req;

		r->head.body = BODY_NONE;
		r->task_done = r->task_ok = true;
		req_claim(r, "greedy", AGENT_REQUESTS);
		if (!r->too_many)
			req_failf(r, 404, "none", "an answer");
		else
			req_failf(r, 429, "too_many", "as the pipeline answers it");
		max = c->agent->conns > max ? c->agent->conns : max;
		conn_advance(c);
		served += c->state == CONN_HEAD;
		closed += c->state == CONN_CLOSED;
	}
	test_result(served == 5 && closed == 11 && max == 6 && conn_count == 5 && conn_unknown == 0,
	    "connections beyond an agent's share are closed", "%zu go on, %zu are closed, %u at once, %zu are left", served,
	    closed, max, conn_count);
	while (LIST_FIRST(&conn_list) != NULL)
		conn_close(LIST_FIRST(&conn_list), true);
	loop_run_deferred();
}

/* What an agent asks above its share waits, in the order it came; what has gone leaves no gap; how much waits is bounded. */
static void
test_turns(void)
{
	struct req *r[8];
	struct agent *a;
	bool ok = true;
	size_t n = 0;

	conn_max = 4096;
	for (size_t i = 0; i < COUNT(r); i++) {
		r[i] = conn_make(CONN_DECIDE)->req;
		req_claim(r[i], "busy", 2);
		ok = ok && r[i]->held == (i >= 2) && !r[i]->too_many;
	}
	a = r[0]->counted;
	conn_close(r[4]->conn, true);
	conn_close(r[7]->conn, true);
	conn_close(r[1]->conn, true);
	ok = ok && !r[2]->held && r[3]->held && r[5]->held && a->requests == 2;
	conn_close(r[0]->conn, true);
	conn_close(r[2]->conn, true);
	ok = ok && !r[3]->held && !r[5]->held && r[6]->held && TAILQ_FIRST(&a->held) == r[6] && TAILQ_NEXT(r[6], held_link) == NULL;
	test_result(ok, "an agent's further requests have their turn in the order they came", "%u in progress", a->requests);
	for (ok = true; ok && n < 100000; n++) {
		struct req *more = conn_make(CONN_DECIDE)->req;

		conn_max = 1u << 20;
		req_claim(more, "busy", 2);
		ok = !more->too_many;
		if (!ok)
			test_result(!more->held && more->counted == NULL && a->held_bytes <= AGENT_HELD_MAX && n > 200,
			    "how much of an agent waits is bounded", "%zu wait, %zu bytes", n, a->held_bytes);
	}
	while (LIST_FIRST(&conn_list) != NULL)
		conn_close(LIST_FIRST(&conn_list), true);
	loop_run_deferred();
	test_result(!ok && *agent_slot("busy") == NULL, "an agent of whom nothing is left is forgotten", "%zu waited", n);
}

static bool known_at_wipe;

static void
wipe_counted(struct filter *f)
{
	known_at_wipe = *agent_slot("second") != NULL && f->share == &(*agent_slot("second"))->bodies;
}

/* One connection, two agents' tokens: the second agent has no connection, so nothing but the request keeps it. */
static void
test_second_agent(void)
{
	static const struct filter_class class = {.size = sizeof(struct filter), .wipe = wipe_counted};
	struct conn *c = conn_make(CONN_DECIDE);
	struct req *r = c->req;

	req_claim(r, "first", 2);
	req_free(r);
	r = c->req = req_new(c);
	req_claim(r, "second", 2);
	flow_attach(&r->up_flow, filter_alloc(&class));
	r->up_flow.filter->share = &r->counted->bodies;
	req_free(r);
	c->req = NULL;
	test_result(known_at_wipe && *agent_slot("second") == NULL, "a filter is given back before its agent is forgotten",
	    "%d, %d", known_at_wipe, *agent_slot("second") == NULL);
	conn_close(c, true);
	close(client);
	loop_run_deferred();
}

/* A tunnel whose upstream fails while the client does not read: it waits for that as for any reader, not for an hour. */
static void
test_blind(void)
{
	struct conn *c = conn_make(CONN_RELAY);
	char text[4096] = {0};
	int pair[2];

	assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0 &&
	    (c->req->up = calloc(1, sizeof *c->req->up)) != NULL);
	c->req->up->state = UP_OPEN;
	c->req->up->owner = c;
	c->req->up->event = conn_upstream_event;
	peer_init(&c->req->up->peer, pair[0], upstream_ready);
	c->req->idle_ms = 3600000;
	conn_begin_blind(c);
	while (peer_flush(&c->peer) == IO_OK)
		assert(peer_put(&c->peer, text, sizeof text));
	c->req->up->peer.failed = true;
	conn_advance(c);
	test_result(c->state == CONN_BLIND && peer_pending(&c->peer) != 0 && c->deadline <= clock_now() + CONN_IDLE_MS &&
	    c->timer.at <= c->deadline, "a tunnel that failed, and a client that does not read", "%d: %lld ms", c->state,
	    (long long)(c->deadline - clock_now()));
	conn_close(c, true);
	close(client);
	close(pair[1]);
	loop_run_deferred();
}

/* How long nothing may move. */
static void
test_patience(void)
{
	static const struct {
		const char *name;
		bool begun, sent, read;
		int up, down;
		int64_t idle, want;
	} cases[] = {
		{"the answer's head", false, true, false, BODY_NONE, 0, 3600, 900},
		{"a body of known length that is being sent", false, false, false, BODY_LENGTH, 0, 3600, 90},
		{"a chunked body that is being sent", false, false, false, BODY_CHUNKED, 0, 3600, 3600},
		{"a body that was read whole", false, false, true, BODY_CHUNKED, 0, 3600, 90},
		{"an answer of known length", true, true, false, BODY_NONE, BODY_LENGTH, 3600, 90},
		{"a chunked answer, whatever its type", true, true, false, BODY_NONE, BODY_CHUNKED, 3600, 3600},
		{"an answer until the end", true, true, false, BODY_NONE, BODY_EOF, 3600, 3600},
		{"a stream while its request goes on", true, false, false, BODY_LENGTH, BODY_CHUNKED, 3600, 3600},
		{"a short idle-timeout, and a known length", true, true, false, BODY_NONE, BODY_LENGTH, 5, 5},
		{"a short idle-timeout, and a stream", true, true, false, BODY_NONE, BODY_CHUNKED, 5, 5},
		{"a short idle-timeout is not the answer's", false, true, false, BODY_NONE, 0, 5, 900},
	};

	for (size_t i = 0; i < COUNT(cases); i++) {
		struct conn *c = conn_make(CONN_RELAY);
		struct req *r = c->req;
		int64_t got;

		r->answer_ms = 900000;
		r->idle_ms = cases[i].idle * 1000;
		r->answer_begun = cases[i].begun;
		r->body_read = cases[i].read;
		r->up_flow.mode = cases[i].up;
		r->down_flow.mode = cases[i].down;
		got = req_patience(r, cases[i].sent);
		test_result(got == cases[i].want * 1000, cases[i].name, "%lld ms", (long long)got);
		conn_close(c, true);
		close(client);
		loop_run_deferred();
	}
	test_result(conn_answer_ms == 900000 && conn_idle_ms == 3600000 && net_dial_ms == 10000, "DESIGN's limits", "not so");
}

/* An answer on its way, of which the client has taken nothing we would hear of. */
static void
test_stall(void)
{
	struct conn *c = conn_make(CONN_RELAY);
	struct req *r = c->req;
	char text[4096] = {0};
	int pair[2];
	bool slow, slower;

	assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0 && (r->up = calloc(1, sizeof *r->up)) != NULL);
	r->up->state = UP_OPEN;
	r->up->owner = c;
	r->up->event = conn_upstream_event;
	peer_init(&r->up->peer, pair[0], upstream_ready);
	r->answer_begun = true;
	r->idle_ms = 3600000;
	flow_init(&r->down_flow, &r->up->peer, &c->peer, BODY_LENGTH, 1 << 20, false);
	while (peer_flush(&c->peer) == IO_OK)
		assert(peer_put(&c->peer, text, sizeof text));
	conn_expire(c);
	slow = c->state == CONN_RELAY && c->deadline > clock_now();
	while (client_read() == 0)
		;
	conn_expire(c);
	slower = c->state == CONN_RELAY && c->deadline > clock_now();
	test_result(slow && slower, "a client that reads a little has time", "%d %d", slow, slower);
	conn_expire(c);
	test_result(c->state == CONN_CLOSED, "one that reads nothing has not", "%d", c->state);
	close(client);
	close(pair[1]);
	loop_run_deferred();
}

static void
hear_nothing(struct upstream *u)
{
	(void)u;
}

/* So much time passes: the timers that are due fire, as in loop_run. */
static void
pass(int64_t ms)
{
	loop_time = clock_now() + ms;
	while (timer_n != 0 && timer_heap[1]->at <= loop_time) {
		struct timer *t = timer_heap[1];

		timer_stop(t);
		t->fire(t);
	}
	loop_run_deferred();
}

/* A server of HTTP/2 with a request that says nothing: asked by PING, it is there for hours, and gone when it does not answer. */
static void
test_silence(void)
{
	static const char settings[9] = {0, 0, 0, NGHTTP2_SETTINGS}, request[] = "GET / HTTP/1.1\r\nHost: api.example\r\n\r\n";
	struct conn *c = conn_make(CONN_RELAY);
	struct upstream *u = upstream_new("key", "api.example", 80, false, NULL, false), *s;
	int pair[2], rounds;
	char got[4096];
	bool there;

	assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0 && u != NULL);
	peer_init(&u->peer, pair[0], upstream_ready);
	u->peer.watch.readable = u->peer.watch.writable = u->h2 = true;
	u->state = UP_OPEN;
	LIST_INSERT_HEAD(&upstream_h2, u, h2_link);
	assert((s = c->req->up = h2_join(c->req, u)) != NULL);
	s->event = hear_nothing;
	timer_stop(&c->timer);  /* how long a request may be silent is its idle-timeout's business */
	assert(peer_put(&s->peer, request, sizeof request - 1) && stream_flush(&s->peer) != IO_ERR);
	assert(write(pair[1], settings, sizeof settings) == sizeof settings);
	pass(0);
	assert(read(pair[1], got, sizeof got) > 0);
	for (rounds = 0; rounds < 36 && !s->peer.failed; rounds++) {
		pass(H2_PING_MS);
		if (read(pair[1], got, sizeof got) != 17 || got[3] != NGHTTP2_PING || got[4] != 0)
			break;
		got[4] = NGHTTP2_FLAG_ACK;
		assert(write(pair[1], got, 17) == 17);
		u->peer.watch.readable = true;
		upstream_ready(&u->peer.watch);
	}
	test_result(rounds == 36 && !s->peer.failed, "three hours of silence over HTTP/2, with a PING each five minutes", "%d rounds", rounds);
	pass(H2_PING_MS);
	pass(H2_PONG_MS - 1);
	there = !s->peer.failed;
	pass(1);
	test_result(there && s->peer.failed, "a server that answers no PING within 15 s is gone", "%d %d", there, s->peer.failed);
	conn_close(c, true);
	close(client);
	close(pair[1]);
	loop_run_deferred();
}

int
main(void)
{
	assert(loop_init(false));
	test_stall();
	test_patience();
	test_answer();
	test_blind();
	test_share();
	test_turns();
	test_second_agent();
	test_silence();
	return test_end();
}
