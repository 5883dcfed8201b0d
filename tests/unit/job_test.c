/* Lanes of helper threads: whose turn it is, and what is taken back. A first job holds the lane while others are submitted. */
#include PROXY_C
#include "guard.h"

static struct named {
	struct job job;
	char name[4];
} jobs[256];
static size_t jobs_n;
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER; /* the first job waits for it */
static pthread_cond_t gate_open = PTHREAD_COND_INITIALIZER;
static bool opened, began;
static char ran[1024];                  /* names, in the order in which the thread had them */
static bool all_done;

static void
job_run(struct job *j)
{
	size_t n = strlen(ran);

	if (!text_copy(ran + n, sizeof ran - n, OWNER(j, struct named, job)->name))
		abort();
}

static void
run_first(struct job *j)
{
	(void)j;
	pthread_mutex_lock(&gate);
	began = true;
	pthread_cond_broadcast(&gate_open);
	while (!opened)
		pthread_cond_wait(&gate_open, &gate);
	pthread_mutex_unlock(&gate);
}

static void
done(struct defer *d)
{
	(void)d;
}

static void
done_last(struct defer *d)
{
	(void)d;
	all_done = true;
}

static struct job *
submit(uint32_t owner, const char *name, void (*what)(struct job *), void (*then)(struct defer *))
{
	struct named *n = &jobs[jobs_n++];

	snprintf(n->name, sizeof n->name, "%s", name);
	n->job = (struct job){.lane = JOB_VERIFY, .owner = owner, .run = what, .done = then};
	job_submit(&n->job);
	return &n->job;
}

/* The lane is held from here on, by a job of `owner`. */
static void
hold(uint32_t owner)
{
	opened = began = all_done = false;
	jobs_n = 0;
	ran[0] = '\0';
	submit(owner, "", run_first, done);
	pthread_mutex_lock(&gate);
	while (!began)
		pthread_cond_wait(&gate_open, &gate);
	pthread_mutex_unlock(&gate);
}

/* Lets all run. The last job of another owner, with so many before it, is the last of all. */
static const char *
let(void)
{
	for (int i = 0; i < 100; i++)
		submit(99, "", job_run, i == 99 ? done_last : done);
	pthread_mutex_lock(&gate);
	opened = true;
	pthread_cond_broadcast(&gate_open);
	pthread_mutex_unlock(&gate);
	loop_run(&all_done);
	return ran;
}

int
main(void)
{
	struct job *taken;

	assert(loop_init(true));
	hold(1);
	for (int i = 0; i < 4; i++)
		submit(1, "a", job_run, done);
	submit(2, "b", job_run, done);
	submit(3, "c", job_run, done);
	submit(2, "B", job_run, done);
	test_result(strcmp(let(), "abcaBaa") == 0, "owners take turns", "%s", ran);

	hold(0);
	submit(0, "1", job_run, done);
	submit(0, "2", job_run, done);
	submit(0, "3", job_run, done);
	test_result(strcmp(let(), "123") == 0, "one owner's jobs keep their order", "%s", ran);

	hold(1);
	submit(1, "a", job_run, done);
	taken = submit(1, "x", job_run, done);
	submit(1, "A", job_run, done);
	test_result(job_cancel(taken) && !job_cancel(taken), "a job that waits can be taken back", "no");
	test_result(!job_cancel(&jobs[0].job), "one that has begun cannot", "no");
	test_result(strcmp(let(), "aA") == 0, "what was taken back does not run", "%s", ran);
	return test_end();
}
