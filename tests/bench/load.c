/* Load for the benchmark: HTTPS requests, direct or through a CONNECT proxy. One thread, epoll, OpenSSL.
 *
 *   load [-x PROXY:PORT -u TOKEN] -t ADDRESS:PORT -h HOST [-A CA.pem] [-c CONNECTIONS] [-d SECONDS] [-k REQUESTS]
 *        [-n] [-r] [-2] [-b BYTES [-s BYTES]] [-H FIELD]… [-i] [-q] [-v] PATH
 *
 * -n a new connection for each request; -r with it, resuming the slot's last session; -2 TLS 1.2 at most; -b posts
 * so many bytes, -s in signed chunks of so many (their signatures are zeros); -H adds a header field; -i does one request on each connection, says "idle" and waits for the end of standard input.
 * Prints one JSON object. Latency is from the first byte written (with -n: from the connect) to the last one read. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HEAD_MAX 16384          /* of an answer: what a benchmark's servers send is under 1 KiB */
#define SAMPLES_MAX (1 << 22)   /* latencies kept: 32 MiB, minutes at any speed this reaches */
#define READ_MAX (1 << 17)
#define IDLE_AT_ONCE 32         /* -i: connections being set up; a proxy may bound an agent's requests in progress */

enum state { CONNECTING, ASKING, GRANTED, HANDSHAKE, WRITING, READING, IDLE };

struct client {
	int fd;
	enum state state;
	SSL *tls;
	SSL_SESSION *session;   /* owned; what this slot resumes with */
	uint32_t events;        /* what epoll watches; 0: not added yet */
	double start;
	size_t sent, nhead;
	int64_t left;           /* of the body; -1: its head is not there yet */
	bool close;
	char head[HEAD_MAX];
};

static struct {
	struct sockaddr_in to;
	const char *host, *path, *token, *ca;
	int connections, upload, chunk;
	char fields[2048];
	int64_t requests;
	double seconds;
	bool proxy, fresh, resume, tls12, idle;
} opt = {.connections = 16, .seconds = 5};

static char *request, ask[1024];
static size_t nrequest, nask;
static SSL_CTX *context;
static int ep;
static double *samples;
static struct client *clients;
static int opened;
static int64_t done, started, failed, bytes, handshakes, resumed, refused;
static int idle;
static char why[256];

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void
die(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void
watch(struct client *c, uint32_t events)
{
	struct epoll_event e = {.events = events, .data.ptr = c};

	if (c->events == events)
		return;
	if (epoll_ctl(ep, c->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->fd, &e) != 0)
		die("epoll_ctl");
	c->events = events;
}

static void
client_open(struct client *c)
{
	int one = 1;

	if (opt.requests > 0 && started >= opt.requests)
		return;
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	c->start = now();
	c->events = 0;
	c->sent = c->nhead = 0;
	c->state = CONNECTING;
	if (connect(c->fd, (struct sockaddr *)&opt.to, sizeof opt.to) != 0 && errno != EINPROGRESS)
		die("connect");
	watch(c, EPOLLOUT);
}

static void
client_close(struct client *c)
{
	struct linger l = {1, 0};       /* no TIME_WAIT: the ports would run out */

	if (c->tls != NULL) {
		SSL_set_quiet_shutdown(c->tls, 1);
		SSL_shutdown(c->tls);
		SSL_free(c->tls);
	}
	c->tls = NULL;
	setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
	close(c->fd);
}

static void
client_fail(struct client *c, const char *what)
{
	unsigned long e = ERR_peek_error();

	failed++;
	if (why[0] == '\0')
		snprintf(why, sizeof why, "%s: %s", what, e ? ERR_reason_error_string(e) : strerror(errno));
	ERR_clear_error();
	client_close(c);
	if (failed > 50 && failed > done) {
		fprintf(stderr, "load: %s\n", why);
		exit(1);
	}
	client_open(c);
}

/* The session a server gives: in TLS 1.3 it comes after the handshake. */
static int
keep_session(SSL *tls, SSL_SESSION *session)
{
	struct client *c = SSL_get_app_data(tls);

	SSL_SESSION_free(c->session);
	c->session = session;
	return 1;
}

static void
start_tls(struct client *c)
{
	c->tls = SSL_new(context);
	SSL_set_app_data(c->tls, c);
	SSL_set_fd(c->tls, c->fd);
	SSL_set_tlsext_host_name(c->tls, opt.host);
	SSL_set1_host(c->tls, opt.host);
	if (opt.resume && c->session != NULL)
		SSL_set_session(c->tls, c->session);
	SSL_set_connect_state(c->tls);
	c->state = HANDSHAKE;
}

static void
start_request(struct client *c)
{
	if (opt.requests > 0 && started >= opt.requests) {
		c->state = IDLE;
		return;
	}
	started++;
	c->state = WRITING;
	c->sent = c->nhead = 0;
	c->left = -1;
	c->close = false;
	if (!opt.fresh)
		c->start = now();
}

static void
finish(struct client *c)
{
	if (done < SAMPLES_MAX)
		samples[done] = now() - c->start;
	done++;
	if (opt.idle) {
		c->state = IDLE;
		idle++;
		watch(c, EPOLLIN);
		if (opened < opt.connections)
			client_open(&clients[opened++]);
	} else if (opt.fresh || c->close) {
		client_close(c);
		client_open(c);
	} else {
		start_request(c);
	}
}

/* What a TLS call wants next; false: it failed. */
static bool
tls_wait(struct client *c, int result)
{
	switch (SSL_get_error(c->tls, result)) {
	case SSL_ERROR_WANT_READ:
		watch(c, EPOLLIN);
		return true;
	case SSL_ERROR_WANT_WRITE:
		watch(c, EPOLLOUT);
		return true;
	default:
		return false;
	}
}

static bool
take_head(struct client *c)
{
	char *end, *p;

	c->head[c->nhead] = '\0';
	end = strstr(c->head, "\r\n\r\n");
	if (end == NULL)
		return false;
	*end = '\0';
	if (atoi(c->head + 9) / 100 != 2 && refused++ == 0 && why[0] == '\0') {
		p = strcasestr(c->head, "\r\nx-sallyport-error:");
		snprintf(why, sizeof why, "answered %.3s%.*s", c->head + 9, p != NULL ? (int)strcspn(p + 20, "\r\"\\") : 0, p != NULL ? p + 20 : "");
	}
	p = strcasestr(c->head, "\r\ncontent-length:");
	c->left = p != NULL ? atoll(p + 17) : 0;
	c->close = strcasestr(c->head, "\r\nconnection: close") != NULL;
	size_t body = c->nhead - (size_t)(end + 4 - c->head);
	bytes += (int64_t)body;
	c->left -= (int64_t)body;
	return true;
}

/* One step of the connection: true to go on at once, false to wait. */
static bool
step(struct client *c)
{
	static char scratch[READ_MAX];
	socklen_t len = sizeof(int);
	ssize_t n;
	int e = 0;

	switch (c->state) {
	case CONNECTING:
		getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &e, &len);
		if (e != 0) {
			errno = e;
			client_fail(c, "connect");
			return false;
		}
		if (opt.proxy)
			c->state = ASKING;
		else
			start_tls(c);
		return true;
	case ASKING:
		n = write(c->fd, ask + c->sent, nask - c->sent);
		if (n > 0 && (c->sent += (size_t)n) == nask) {
			c->state = GRANTED;
			watch(c, EPOLLIN);
		}
		return false;
	case GRANTED:
		n = read(c->fd, c->head + c->nhead, sizeof c->head - 1 - c->nhead);
		if (n < 0 && errno == EAGAIN)
			return false;
		if (n > 0)
			c->head[c->nhead += (size_t)n] = '\0';
		if (n == 0)
			errno = ECONNRESET;
		if (n <= 0 || (strstr(c->head, "\r\n\r\n") != NULL && strncmp(c->head + 8, " 200", 4) != 0)) {
			client_fail(c, n > 0 ? "CONNECT refused" : "CONNECT");
			return false;
		}
		if (strstr(c->head, "\r\n\r\n") == NULL)
			return false;
		start_tls(c);
		return true;
	case HANDSHAKE:
		n = SSL_do_handshake(c->tls);
		if (n == 1) {
			handshakes++;
			resumed += SSL_session_reused(c->tls);
			start_request(c);
			return true;
		}
		if (!tls_wait(c, (int)n))
			client_fail(c, "handshake");
		return false;
	case WRITING:
		n = SSL_write(c->tls, request + c->sent, (int)(nrequest - c->sent));
		if (n > 0) {
			if ((c->sent += (size_t)n) == nrequest)
				c->state = READING;
			return true;
		}
		if (!tls_wait(c, (int)n))
			client_fail(c, "write");
		return false;
	case READING:
		if (c->left < 0)
			n = SSL_read(c->tls, c->head + c->nhead, (int)(sizeof c->head - 1 - c->nhead));
		else
			n = SSL_read(c->tls, scratch, sizeof scratch);
		if (n <= 0) {
			if (!tls_wait(c, (int)n))
				client_fail(c, "read");
			return false;
		}
		if (c->left < 0) {
			c->nhead += (size_t)n;
			if (!take_head(c))
				return true;
		} else {
			bytes += n;
			c->left -= n;
		}
		if (c->left > 0)
			return true;
		finish(c);
		return c->state == WRITING;
	case IDLE:
		watch(c, EPOLLET);
		return false;
	}
	return false;
}

static int
by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double
quantile(double q)
{
	int64_t n = done < SAMPLES_MAX ? done : SAMPLES_MAX;

	return n > 0 ? samples[(int64_t)((double)(n - 1) * q)] * 1e3 : 0;
}

static void
report(double seconds)
{
	qsort(samples, (size_t)(done < SAMPLES_MAX ? done : SAMPLES_MAX), sizeof *samples, by_size);
	printf("{\"requests\":%lld,\"failed\":%lld,\"refused\":%lld,\"seconds\":%.3f,\"rps\":%.1f,\"mb\":%.1f,"
	    "\"p50\":%.3f,\"p99\":%.3f,\"handshakes\":%lld,\"resumed\":%lld,\"why\":\"%s\"}\n",
	    (long long)done, (long long)failed, (long long)refused, seconds, (double)done / seconds,
	    (double)(bytes + done * opt.upload) / 1e6, quantile(0.5), quantile(0.99), (long long)handshakes,
	    (long long)resumed, why);
	fflush(stdout);
}

static void
address(const char *text)
{
	char host[64];
	const char *colon = strchr(text, ':');

	if (colon == NULL || (size_t)(colon - text) >= sizeof host)
		exit(2);
	snprintf(host, sizeof host, "%.*s", (int)(colon - text), text);
	opt.to.sin_family = AF_INET;
	opt.to.sin_port = htons((uint16_t)atoi(colon + 1));
	if (inet_pton(AF_INET, host, &opt.to.sin_addr) != 1)
		exit(2);
}

static void
options(int argc, char **argv)
{
	for (int o; (o = getopt(argc, argv, "x:u:t:h:A:c:d:k:b:s:H:nr2i")) != -1;)
		switch (o) {
		case 'x': opt.proxy = true; address(optarg); break;
		case 'u': opt.token = optarg; break;
		case 't': address(optarg); break;
		case 'h': opt.host = optarg; break;
		case 'A': opt.ca = optarg; break;
		case 'c': opt.connections = atoi(optarg); break;
		case 'd': opt.seconds = atof(optarg); break;
		case 'k': opt.requests = atoll(optarg); break;
		case 'b': opt.upload = atoi(optarg); break;
		case 's': opt.chunk = atoi(optarg); break;
		case 'H': snprintf(opt.fields + strlen(opt.fields), sizeof opt.fields - strlen(opt.fields), "%s\r\n", optarg); break;
		case 'n': opt.fresh = true; break;
		case 'r': opt.resume = true; break;
		case '2': opt.tls12 = true; break;
		case 'i': opt.idle = true; break;
		default: exit(2);
		}
	opt.path = argv[optind];
	if (opt.path == NULL || opt.host == NULL)
		exit(2);
}

/* `size;chunk-signature=…`, data, and so on to the last, empty chunk: opt.upload bytes of data. NULL: only counted. */
static size_t
put_chunks(char *out)
{
	static const char zeros[] = "0000000000000000000000000000000000000000000000000000000000000000";
	size_t n = 0;

	for (int left = opt.upload, size = 1; size != 0; left -= size) {
		char head[128];
		int nhead;

		size = left < opt.chunk ? left : opt.chunk;
		nhead = snprintf(head, sizeof head, "%x;chunk-signature=%s\r\n", (unsigned)size, zeros);
		if (out != NULL) {
			memcpy(out + n, head, (size_t)nhead);
			memset(out + n + nhead, 'x', (size_t)size);
			memcpy(out + n + nhead + size, "\r\n", 2);
		}
		n += (size_t)nhead + (size_t)size + 2;
	}
	return n;
}

static void
prepare(void)
{
	unsigned char basic[400];
	char user[256];
	size_t nbody = opt.chunk > 0 ? put_chunks(NULL) : (size_t)opt.upload;
	size_t size = 1024 + sizeof opt.fields + strlen(opt.path) + nbody;

	EVP_EncodeBlock(basic, (unsigned char *)user,
	    snprintf(user, sizeof user, "x:%s", opt.token != NULL ? opt.token : ""));
	nask = (size_t)snprintf(ask, sizeof ask, "CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\n"
	    "Proxy-Authorization: Basic %s\r\n\r\n", opt.host, opt.host, basic);
	request = malloc(size);
	samples = malloc(SAMPLES_MAX * sizeof *samples);
	if (request == NULL || samples == NULL)
		die("memory");
	nrequest = (size_t)snprintf(request, size, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: load\r\nAccept: */*\r\n%s",
	    opt.chunk > 0 ? "PUT" : opt.upload > 0 ? "POST" : "GET", opt.path, opt.host, opt.fields);
	if (opt.upload > 0)
		nrequest += (size_t)snprintf(request + nrequest, size - nrequest, "Content-Length: %zu\r\n", nbody);
	nrequest += (size_t)snprintf(request + nrequest, size - nrequest, "\r\n");
	if (opt.chunk > 0)
		put_chunks(request + nrequest);
	else
		memset(request + nrequest, 'x', nbody);
	nrequest += nbody;
	context = SSL_CTX_new(TLS_client_method());
	if (opt.ca != NULL && SSL_CTX_load_verify_locations(context, opt.ca, NULL) != 1)
		die(opt.ca);
	SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(context, keep_session);
	if (opt.tls12)
		SSL_CTX_set_max_proto_version(context, TLS1_2_VERSION);
}

int
main(int argc, char **argv)
{
	struct epoll_event ready[256];
	double begin, end;
	char c;

	signal(SIGPIPE, SIG_IGN);
	options(argc, argv);
	prepare();
	ep = epoll_create1(EPOLL_CLOEXEC);
	clients = calloc((size_t)opt.connections, sizeof *clients);
	if (clients == NULL)
		die("memory");
	begin = now();
	end = begin + opt.seconds;
	while (opened < opt.connections && (!opt.idle || opened < IDLE_AT_ONCE))
		client_open(&clients[opened++]);
	while (now() < end && (opt.requests == 0 || done < opt.requests) && (!opt.idle || idle < opt.connections)) {
		int n = epoll_wait(ep, ready, 256, (int)((end - now()) * 1e3) + 1);
		for (int i = 0; i < n; i++)
			while (step(ready[i].data.ptr))
				;
	}
	report(now() - begin);
	if (opt.idle)
		while (read(STDIN_FILENO, &c, 1) > 0)
			;
	return done == 0;
}
