/* Motr's net contract between two nodes in one process, over both transports: a message, then bulk both ways by descriptors,
 * every byte checked; then messages into buffers of a pool, by a machine whose events wait to be asked for. Over kernel sockets on loopback, or, given a folder for its socket, over a virtio link between two DPDK
 * ports.
 *
 *     cc motr_net.c $(pkg-config --cflags --libs pollnd) -o motr_net && ./motr_net
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pollnd.h"

enum { BULK = 200000 };

/* One end: a node, its domain over one transport, its transfer machine. */
struct end {
    struct pollnd_node *node;
    const struct pollnd_net *net;
    uint64_t tm;
};

static void check(int rc, const char *what)
{
    if (rc < 0) {
        fprintf(stderr, "%s: %d: %s\n", what, rc, pollnd_error());
        exit(1);
    }
}

static void expect(int is, const char *what)
{
    if (!is) {
        fprintf(stderr, "%s\n", what);
        exit(1);
    }
}

static struct pollnd_node *start(const char *nid, const char *net_sock, const char *device, const char *eal)
{
    struct pollnd_options options = { .size = sizeof options, .nids = nid, .port = 20988, .net_sock = net_sock };
    struct pollnd_node *node;

    options.flags = POLLND_UNPRIVILEGED | POLLND_NET_OVER_LNET;
    options.device = device;
    options.eal_args = eal;
    options.memory_mb = device ? 512 : 0;
    check(pollnd_node_start(&options, &node), nid);
    return node;
}

/* The end's next event, of this kind and tag, waited for up to a minute. */
static struct pollnd_net_event next(struct end *end, uint32_t kind, uint64_t tag)
{
    struct pollnd_net_event event;
    int rc = pollnd_net_next(end->net, 60000, &event);

    check(rc, "event");
    expect(rc == 1, "no event came");
    if (event.status != 0 || event.kind != kind || event.tag != tag) {
        fprintf(stderr, "event %u of %u, not %u of %u: %d: %s\n", event.kind, (unsigned)event.tag, kind,
                (unsigned)tag, event.status, event.error ? event.error : "");
        exit(1);
    }
    return event;
}

static void started(struct end *end)
{
    struct pollnd_net_event event;

    do
        event = next(end, POLLND_NET_STATE, 1);
    while (event.state < POLLND_TM_STARTED);
    expect(event.state == POLLND_TM_STARTED, "the transfer machine did not start");
}

static void tm_start(struct end *end, uint32_t transport, const char *address)
{
    check(pollnd_net_of(end->node, transport, &end->net), "domain");
    check(pollnd_net_start(end->net, address, 1, &end->tm), address);
    started(end);
}

static void tm_stop(struct end *end)
{
    struct pollnd_net_event event;

    check(pollnd_net_stop(end->net, end->tm, 0), "stop");
    do
        event = next(end, POLLND_NET_STATE, 1);
    while (!(event.flags & POLLND_LAST));
    expect(event.state == POLLND_TM_STOPPED, "the transfer machine did not stop");
    expect(pollnd_net_stop(end->net, end->tm, 0) == -2 /* ENOENT */, "it stopped twice");
}

/* Memory whose bytes count from `first`. */
static struct pollnd_memory *filled(struct end *end, unsigned first)
{
    struct pollnd_memory *memory;

    check(pollnd_memory_alloc(end->node, BULK, &memory), "memory");
    unsigned char *bytes = pollnd_memory_bytes(memory);
    for (size_t i = 0; i < BULK; i++)
        bytes[i] = (unsigned char)(first + i * 7 + i / 256);
    return memory;
}

/* Whether two pieces of memory have the same bytes; both are freed. */
static void same(struct pollnd_memory *a, struct pollnd_memory *b, size_t length, const char *what)
{
    expect(memcmp(pollnd_memory_bytes(a), pollnd_memory_bytes(b), length) == 0, what);
    check(pollnd_memory_free(a), what);
    check(pollnd_memory_free(b), what);
}

static struct pollnd_net_args buffer(struct end *end, uint32_t queue, struct pollnd_memory *memory, uint32_t length)
{
    struct pollnd_net_args args = { .size = sizeof args, .queue = queue, .tm = end->tm, .timeout_ms = 60000 };

    args.memory = memory;
    args.length = length;
    return args;
}

static void message(struct end *here, struct end *there, const char *address)
{
    struct pollnd_memory *from = filled(here, 1), *to = filled(there, 0);
    struct pollnd_net_args recv = buffer(there, POLLND_MSG_RECV, to, 4096);
    struct pollnd_net_args send = buffer(here, POLLND_MSG_SEND, from, 1000);
    struct pollnd_net_event event;

    /* No message is longer, and one fills it. */
    recv.min_size = 4096;
    check(pollnd_net_add(there->net, &recv, 10, NULL), "MSG_RECV");
    next(there, POLLND_NET_ADDED, 10);
    check(pollnd_net_ep(here->net, here->tm, address, 11, &send.ep), address);
    next(here, POLLND_NET_EP, 11);
    check(pollnd_net_add(here->net, &send, 12, NULL), "MSG_SEND");
    next(here, POLLND_NET_ADDED, 12);
    event = next(there, POLLND_NET_BUFFER, 10);
    expect(event.length == 1000 && event.offset == 0 && event.ep != 0 && event.from, "another message");
    printf("  a message of %u bytes from %s\n", (unsigned)event.length, event.from);
    check(pollnd_net_ep_put(there->net, event.ep), "end-point");
    pollnd_net_release(&event);
    event = next(here, POLLND_NET_BUFFER, 12);
    expect(event.flags & POLLND_LAST, "the message has not ended");
    check(pollnd_net_ep_put(here->net, send.ep), "end-point");
    same(from, to, 1000, "a byte of the message is wrong");
}

/* The passive end tells the active one its descriptor, which a program would send in a message. */
static void bulk(struct end *passive, struct end *active, int fetch)
{
    struct pollnd_memory *of_passive = filled(passive, fetch ? 3 : 0), *of_active = filled(active, fetch ? 0 : 5);
    struct pollnd_net_args waits = buffer(passive, fetch ? POLLND_PASSIVE_SEND : POLLND_PASSIVE_RECV, of_passive, BULK);
    struct pollnd_net_args moves = buffer(active, fetch ? POLLND_ACTIVE_RECV : POLLND_ACTIVE_SEND, of_active, BULK);
    struct pollnd_net_event queued, event;

    check(pollnd_net_add(passive->net, &waits, 20, NULL), "passive");
    queued = next(passive, POLLND_NET_ADDED, 20);
    moves.desc = queued.desc;
    moves.desc_length = queued.desc_length;
    check(pollnd_net_add(active->net, &moves, 21, NULL), "active");
    next(active, POLLND_NET_ADDED, 21);
    event = next(active, POLLND_NET_BUFFER, 21);
    expect(event.length == BULK && event.flags & POLLND_LAST, "another length");
    pollnd_net_release(&event);
    event = next(passive, POLLND_NET_BUFFER, 20);
    expect(event.length == BULK && event.flags & POLLND_LAST, "another length");
    if (event.ep)
        check(pollnd_net_ep_put(passive->net, event.ep), "end-point");
    pollnd_net_release(&event);
    printf("  %u bytes %s\n", BULK, fetch ? "fetched" : "sent");
    same(of_passive, of_active, BULK, "a byte of the bulk is wrong");
}

/* A buffer that is given up ends, once, and its memory is free. */
static void given_up(struct end *end)
{
    struct pollnd_memory *memory = filled(end, 0);
    struct pollnd_net_args waits = buffer(end, POLLND_PASSIVE_RECV, memory, BULK);
    struct pollnd_net_event event;
    uint64_t name;

    check(pollnd_net_add(end->net, &waits, 30, &name), "passive");
    next(end, POLLND_NET_ADDED, 30);
    expect(pollnd_net_add(end->net, &waits, 31, NULL) == -16 /* EBUSY */, "memory was queued twice");
    check(pollnd_net_del(end->net, name), "del");
    check(pollnd_net_next(end->net, 60000, &event), "event");
    expect(event.tag == 30 && event.status == -125 /* ECANCELED */ && event.flags & POLLND_LAST, "no end");
    pollnd_net_release(&event);
    expect(pollnd_net_del(end->net, name) == -2 /* ENOENT */, "it ended twice");
    check(pollnd_memory_free(memory), "free");
}

/* The answer to a question under this tag. */
static uint64_t count(struct end *end, int rc, uint64_t tag)
{
    check(rc, "question");
    return next(end, POLLND_NET_COUNT, tag).length;
}

/* A buffer that is given up with others: its last event. */
static void canceled(struct end *end)
{
    struct pollnd_net_event event;

    expect(pollnd_net_next(end->net, 60000, &event) == 1, "no event came");
    expect(event.kind == POLLND_NET_BUFFER && event.status == -125 /* ECANCELED */, "not given up");
    expect(event.tag >= 51 && event.tag <= 53 && event.flags & POLLND_LAST, "another buffer");
    pollnd_net_release(&event);
}

/* A machine whose queue for messages is filled from a pool, and whose events wait until it asks for them. */
static void pooled(struct end *here, struct end *there, const char *address)
{
    struct pollnd_net_setup setup = { .size = sizeof setup, .flags = POLLND_TM_SYNC, .address = address };
    struct pollnd_memory *memory[3], *from = filled(here, 9);
    struct pollnd_net_args send = buffer(here, POLLND_MSG_SEND, from, 1000);
    struct pollnd_net_event event;
    uint64_t pool;

    check(pollnd_net_pool(there->net, 2, 2, 40, &pool), "pool");
    for (uint32_t i = 0; i < 3; i++) {
        memory[i] = filled(there, 0);
        check(pollnd_net_pool_put(there->net, pool, 1 + i % 2, memory[i], 4096, 51 + i, NULL), "pool_put");
    }
    next(there, POLLND_NET_POOL_FILLED, 40);
    setup.pool = pool;
    setup.colour = 1;
    setup.min_size = 4096;
    check(pollnd_net_start_with(there->net, &setup, 1, &there->tm), address);
    started(there);
    /* Two wait for messages: those of colour 1, the one used last first. One is left. */
    next(there, POLLND_NET_POOL_BELOW, 40);
    expect(count(there, pollnd_net_pool_count(there->net, pool, 41), 41) == 1, "another number in the pool");

    expect(count(there, pollnd_net_pending(there->net, there->tm, 42), 42) == 0, "nothing came yet");
    check(pollnd_net_notify(there->net, there->tm, 43), "notify");
    check(pollnd_net_ep(here->net, here->tm, address, 11, &send.ep), address);
    next(here, POLLND_NET_EP, 11);
    check(pollnd_net_add(here->net, &send, 12, NULL), "MSG_SEND");
    next(here, POLLND_NET_ADDED, 12);
    expect(next(there, POLLND_NET_PENDING, 43).flags & POLLND_LAST, "told twice");
    next(here, POLLND_NET_BUFFER, 12);
    expect(count(there, pollnd_net_pending(there->net, there->tm, 44), 44) == 1, "nothing waits");
    expect(count(there, pollnd_net_deliver(there->net, there->tm, 45), 45) == 1, "nothing was delivered");
    event = next(there, POLLND_NET_BUFFER, 53);
    expect(event.length == 1000 && event.flags & POLLND_LAST && event.ep, "another message");
    expect(memcmp(pollnd_memory_bytes(memory[2]), pollnd_memory_bytes(from), 1000) == 0, "a byte is wrong");
    check(pollnd_net_ep_put(there->net, event.ep), "end-point");
    pollnd_net_release(&event);
    check(pollnd_net_ep_put(here->net, send.ep), "end-point");
    printf("  a message into a buffer of a pool, when it was asked for\n");

    /* The third took its place; it is the pool's again. */
    check(pollnd_net_pool_put(there->net, pool, 1, memory[2], 4096, 53, NULL), "pool_put");
    next(there, POLLND_NET_POOL_FILLED, 40);
    expect(count(there, pollnd_net_pool_length(there->net, there->tm, 5, 46), 46) == 2, "another deficit");
    expect(count(there, pollnd_net_deficit(there->net, there->tm, 47), 47) == 2, "another deficit");
    check(pollnd_net_stats(there->net, there->tm, POLLND_MSG_RECV, 1, 48), "stats");
    event = next(there, POLLND_NET_STATS, 48);
    expect(event.counts->adds == 4 && event.counts->successes == 1 && event.counts->bytes == 1000, "other counts");
    pollnd_net_release(&event);

    check(pollnd_net_notify(there->net, there->tm, 49), "notify");
    check(pollnd_net_stop(there->net, there->tm, 1), "stop");
    for (int i = 0; i < 3; i++)
        canceled(there);
    expect(pollnd_net_next(there->net, 60000, &event) == 1 && event.tag == 49 && event.status == -125, "no end");
    pollnd_net_release(&event);
    event = next(there, POLLND_NET_STATE, 1);
    expect(event.state == POLLND_TM_STOPPED && event.flags & POLLND_LAST, "the transfer machine did not stop");

    check(pollnd_net_pool_put(there->net, pool, 0, memory[0], 4096, 51, NULL), "pool_put");
    check(pollnd_net_pool_put(there->net, pool, 0, memory[1], 4096, 52, NULL), "pool_put");
    next(there, POLLND_NET_POOL_FILLED, 40);
    check(pollnd_net_pool_get(there->net, pool, 0, 50), "pool_get");
    canceled(there);
    next(there, POLLND_NET_COUNT, 50);
    next(there, POLLND_NET_POOL_BELOW, 40);
    check(pollnd_net_pool_free(there->net, pool), "pool_free");
    canceled(there);
    expect(next(there, POLLND_NET_POOL, 40).flags & POLLND_LAST, "the pool is not gone");
    expect(pollnd_net_pool_free(there->net, pool) == -2 /* ENOENT */, "it went twice");
    for (int i = 0; i < 3; i++)
        check(pollnd_memory_free(memory[i]), "free");
    check(pollnd_memory_free(from), "free");
}

/* A node's NID, and its addresses in the two transports. */
struct names {
    const char *nid, *lnet, *sock;
};

static void exchange(uint32_t transport, struct end *here, struct end *there, const char *at, const char *to)
{
    tm_start(here, transport, at);
    tm_start(there, transport, to);
    message(here, there, to);
    bulk(there, here, 0);
    bulk(there, here, 1);
    given_up(here);
    tm_stop(there);
    pooled(here, there, to);
    tm_stop(here);
}

int main(int argc, char **argv)
{
    static const struct names loopback[] = {
        { "127.0.73.1@tcp", "127.0.73.1@tcp:12345:34:1", "inet:stream:127.0.73.1@20973" },
        { "127.0.73.2@tcp", "127.0.73.2@tcp:12345:34:1", "inet:stream:127.0.73.2@20973" },
    };
    static const struct names ports[] = {
        { "10.73.0.1@tcp", "10.73.0.1@tcp:12345:34:1", "inet:stream:10.73.0.1@7011" },
        { "10.73.0.2@tcp", "10.73.0.2@tcp:12345:34:1", "inet:stream:10.73.0.2@7011" },
    };
    char vhost[256] = "", virtio[256] = "";
    int dpdk = argc > 1;
    const struct names *names = dpdk ? ports : loopback;

    if (dpdk) {
        snprintf(vhost, sizeof vhost, "net_vhost0,iface=%s/n.sock,tso=1", argv[1]);
        snprintf(virtio, sizeof virtio, "net_virtio_user0,path=%s/n.sock,queue_size=1024,mrg_rxbuf=1", argv[1]);
    }
    /* The end that has the socket first. */
    const char *eal = argc > 2 ? argv[2] : NULL;
    struct end there = { .node = start(names[1].nid, names[1].sock, dpdk ? vhost : NULL, eal) };
    struct end here = { .node = start(names[0].nid, names[0].sock, dpdk ? virtio : NULL, NULL) };

    puts("over lnet:");
    exchange(POLLND_NET_LNET, &here, &there, names[0].lnet, names[1].lnet);
    puts("over sock:");
    exchange(POLLND_NET_SOCK, &here, &there, names[0].sock, names[1].sock);
    check(pollnd_node_stop(here.node), "stop");
    check(pollnd_node_stop(there.node), "stop");
    pollnd_node_free(here.node);
    pollnd_node_free(there.node);
    puts("done");
    return 0;
}
