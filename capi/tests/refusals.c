/* Bad arguments, at each function: a negative error number, a text, and nothing done. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pollnd.h"

#define REFUSED(call, with, ...) refused((call), (with), #call, __LINE__, (const char *[]){__VA_ARGS__, NULL})

static void refused(int rc, int with, const char *call, int line, const char **says)
{
    if (rc != with) {
        fprintf(stderr, "%d: %s: %d, not %d: %s\n", line, call, rc, with, pollnd_error());
        exit(1);
    }
    for (; *says; says++)
        if (!strstr(pollnd_error(), *says)) {
            fprintf(stderr, "%d: %s: \"%s\" is not in: %s\n", line, call, *says, pollnd_error());
            exit(1);
        }
}

static void is(int ok, int line)
{
    if (!ok) {
        fprintf(stderr, "%d: not so; %s\n", line, pollnd_error());
        exit(1);
    }
}
#define IS(x) is((x), __LINE__)

int main(void)
{
    struct pollnd_node *node = NULL;
    struct pollnd_nid nid;
    struct pollnd_process target, nobody = {0};
    struct pollnd_event event;
    struct pollnd_memory *memory, *wrapped;
    char text[64];
    uint64_t entry;

    IS(strcmp(pollnd_version(), "0.1.0") == 0);
    IS(pollnd_error()[0] == 0);

    /* Texts. */
    REFUSED(pollnd_nid_parse(NULL, &nid), -EINVAL, "NID \"\"");
    REFUSED(pollnd_nid_parse("10.0.0.1@tcp", NULL), -EINVAL, "nid is null");
    REFUSED(pollnd_nid_parse("10.0.0.1@elan", &nid), -EINVAL, "10.0.0.1@elan");
    REFUSED(pollnd_nid_parse("\xff\xfe", &nid), -EINVAL, "UTF-8");
    REFUSED(pollnd_process_parse("x-10.0.0.1@tcp", &target), -EINVAL, "x-10.0.0.1@tcp");
    IS(pollnd_nid_parse("10.0.0.1@tcp7", &nid) == 0);
    REFUSED(pollnd_nid_text(&nid, text, 13), -ENOSPC, "13 bytes");
    REFUSED(pollnd_nid_text(NULL, text, sizeof text), -EINVAL, "nid is null");
    REFUSED(pollnd_nid_text(&nid, NULL, 64), -EINVAL, "to is null");
    IS(pollnd_nid_text(&nid, text, 14) == 13 && strcmp(text, "10.0.0.1@tcp7") == 0);

    /* Options. */
    struct pollnd_options o = { .size = sizeof o, .nids = "127.0.72.1@tcp", .port = 20988 };
    struct pollnd_options bad;
    o.flags = POLLND_UNPRIVILEGED;
    REFUSED(pollnd_node_start(NULL, &node), -EINVAL, "options is null");
    REFUSED(pollnd_node_start(&o, NULL), -EINVAL, "node is null");
    REFUSED(pollnd_node_start((void *)((char *)&o + 1), &node), -EINVAL, "options is not aligned");
#define WITH(member, value) (bad = o, bad.member = (value), &bad)
    REFUSED(pollnd_node_start(WITH(size, 7), &node), -EINVAL, "size 7", "sizeof");
    REFUSED(pollnd_node_start(WITH(flags, 64), &node), -EINVAL, "0x40");
    REFUSED(pollnd_node_start(WITH(nids, NULL), &node), -EINVAL, "no NID");
    REFUSED(pollnd_node_start(WITH(nids, "1.2.3.4@tcp,x"), &node), -EINVAL, "NID \"x\"");
    REFUSED(pollnd_node_start(WITH(nids, "127.0.72.1@tcp,127.0.72.1@tcp"), &node), -EINVAL, "twice");
    REFUSED(pollnd_node_start(WITH(nids, "192.0.2.77@tcp"), &node), -EADDRNOTAVAIL, "192.0.2.77");
    REFUSED(pollnd_node_start(WITH(port, 988), &node), -EINVAL, "port 988", "above 1023");
    REFUSED(pollnd_node_start(WITH(port, 99999), &node), -EINVAL, "port 99999");
    REFUSED(pollnd_node_start(WITH(depth, 1u << 30), &node), -EINVAL, "depth 1073741824");
    REFUSED(pollnd_node_start(WITH(listen, "here"), &node), -EINVAL, "listen \"here\"");
    REFUSED(pollnd_node_start(WITH(tunables, "peer_credits"), &node), -EINVAL, "name=value");
    REFUSED(pollnd_node_start(WITH(tunables, "no_such=1"), &node), -EINVAL, "no_such");
    REFUSED(pollnd_node_start(WITH(mtu, 9000), &node), -EINVAL, "mtu", "device");
    REFUSED(pollnd_node_start(WITH(net_sock, "here"), &node), -EINVAL, "net_sock \"here\"");
    REFUSED(pollnd_node_start(WITH(net_sock, "inet:dgram:127.0.72.1@7011"), &node), -EINVAL, "dgram");
    IS(node == NULL);

    /* The net contract. */
    o.net_sock = "inet:stream:127.0.72.1@20972";
    IS(pollnd_node_start(&o, &node) == 0);
    struct pollnd_node *second = NULL;
    REFUSED(pollnd_node_start(&o, &second), -EADDRINUSE, "127.0.72.1");
    IS(second == NULL);
    REFUSED(pollnd_node_nid(node, 1, &nid), -ENOENT, "NID 1", "has 1");
    IS(pollnd_node_nid(node, 0, &nid) == 1);
    IS(pollnd_process_parse("127.0.72.9@tcp", &target) == 0);

    /* No event in time. */
    IS(pollnd_event_next(node, 0, &event) == 0);
    IS(pollnd_event_next(node, 20, &event) == 0);
    REFUSED(pollnd_event_next(node, 0, NULL), -EINVAL, "event is null");
    REFUSED(pollnd_event_next(NULL, 0, &event), -EINVAL, "node is null");

    /* Memory. */
    REFUSED(pollnd_memory_alloc(NULL, 100, &memory), -EINVAL, "node is null");
    REFUSED(pollnd_memory_alloc(node, 0, &memory), -EINVAL, "0 bytes");
    REFUSED(pollnd_memory_alloc(node, SIZE_MAX, &memory), -EINVAL, "1 TiB");
    REFUSED(pollnd_memory_alloc(node, 100, NULL), -EINVAL, "memory is null");
    REFUSED(pollnd_memory_wrap(NULL, 100, &wrapped), -EINVAL, "bytes is null");
    char *own = aligned_alloc(64, 4096);
    REFUSED(pollnd_memory_wrap(own + 8, 100, &wrapped), -EINVAL, "align it to 64");
    REFUSED(pollnd_memory_wrap(own, 0, &wrapped), -EINVAL, "0 bytes");
    IS(pollnd_memory_alloc(node, 100, &memory) == 0 && pollnd_memory_length(memory) == 100);
    IS(pollnd_memory_wrap(own, 4096, &wrapped) == 0 && pollnd_memory_bytes(wrapped) == own);
    IS(pollnd_memory_bytes(NULL) == NULL && pollnd_memory_length(NULL) == 0);

    /* Operations. */
    REFUSED(pollnd_ping(node, NULL, 1), -EINVAL, "target is null");
    REFUSED(pollnd_ping(NULL, &target, 1), -EINVAL, "node is null");
    struct pollnd_put_args put = { .size = sizeof put, .target = target, .portal = 5 }, p;
#define PUT(member, value) (p = put, p.member = (value), &p)
    REFUSED(pollnd_put(node, NULL, 1), -EINVAL, "args is null");
    REFUSED(pollnd_put(node, PUT(size, 8), 1), -EINVAL, "size 8");
    REFUSED(pollnd_put(node, PUT(flags, 2), 1), -EINVAL, "0x2");
    REFUSED(pollnd_put(node, PUT(portal, 64), 1), -EINVAL, "portal 64");
    REFUSED(pollnd_put(node, PUT(length, 5), 1), -EINVAL, "bytes is null");
    put.memory = memory;
    REFUSED(pollnd_put(node, PUT(length, 101), 1), -EINVAL, "101 bytes from 0", "100 bytes");
    REFUSED(pollnd_put(node, PUT(length, (1u << 20) + 1), 1), -EMSGSIZE, "1048577");
    put.length = 10;
    REFUSED(pollnd_put(node, PUT(memory_offset, UINT32_MAX), 1), -EINVAL, "from 4294967295");
    REFUSED(pollnd_put(node, PUT(bytes, text), 1), -EINVAL, "both");
    struct pollnd_get_args get = { .size = sizeof get, .target = target, .portal = 5 }, g;
#define GET(member, value) (g = get, g.member = (value), &g)
    REFUSED(pollnd_get(node, &get, 1), -EINVAL, "0 bytes");
    get.memory = memory;
    REFUSED(pollnd_get(node, GET(length, 101), 1), -EINVAL, "101 bytes", "100");
    get.length = 10;
    REFUSED(pollnd_get(node, GET(portal, 99), 1), -EINVAL, "portal 99");
    struct pollnd_entry_args e = { .size = sizeof e, .kind = POLLND_ENTRY_FILL, .portal = 5, .length = 100 }, a;
#define ENTRY(member, value) (a = e, a.member = (value), &a)
    REFUSED(pollnd_attach(node, &e, 1, &entry), -EINVAL, "memory is null");
    REFUSED(pollnd_attach(node, ENTRY(kind, 9), 1, &entry), -EINVAL, "kind 9");
    e.memory = memory;
    REFUSED(pollnd_attach(node, ENTRY(kind, POLLND_ENTRY_DROP), 1, &entry), -EINVAL, "leave it NULL");
    REFUSED(pollnd_attach(node, ENTRY(length, 0), 1, &entry), -EINVAL, "0 bytes");
    REFUSED(pollnd_attach(node, ENTRY(flags, 8), 1, &entry), -EINVAL, "0x8");
    REFUSED(pollnd_attach(node, ENTRY(portal, 64), 1, &entry), -EINVAL, "portal 64");
    REFUSED(pollnd_lazy(node, 0, 1), -EINVAL, "portal 0");
    REFUSED(pollnd_unlink(node, 12345), -ENOENT, "0x3039");

    /* Memory that is filled is nobody else's, and free again with the last event. */
    IS(pollnd_attach(node, &e, 21, &entry) == 0);
    REFUSED(pollnd_get(node, &get, 1), -EBUSY, "last event");
    REFUSED(pollnd_put(node, &put, 1), -EBUSY, "last event");
    REFUSED(pollnd_memory_free(memory), -EBUSY, "last event");
    IS(pollnd_event_next(node, 60000, &event) == 1);
    IS(event.kind == POLLND_EVENT_ATTACHED && event.tag == 21 && event.entry == entry && event.flags == 0);
    IS(pollnd_unlink(node, entry) == 0);
    IS(pollnd_event_next(node, 60000, &event) == 1);
    IS(event.kind == POLLND_EVENT_UNLINK && event.tag == 21 && event.flags == POLLND_LAST);
    REFUSED(pollnd_unlink(node, entry), -ENOENT, "any more");

    /* Failures that come later are events, with a text. */
    IS(pollnd_ping(node, &nobody, 7) == 0);
    IS(pollnd_event_next(node, 60000, &event) == 1);
    IS(event.tag == 7 && event.flags == POLLND_LAST && event.status < 0 && event.error && event.error[0]);
    pollnd_event_release(&event);
    IS(event.error == NULL && event.held == NULL);
    pollnd_event_release(&event);
    pollnd_event_release(NULL);
    put.target = nobody;
    put.memory = wrapped;
    IS(pollnd_nid_parse("127.0.72.9@tcp5", &put.target.nid) == 0);
    IS(pollnd_put(node, &put, 8) == 0);
    IS(pollnd_event_next(node, 60000, &event) == 1);
    IS(event.kind == POLLND_EVENT_REFUSED && event.tag == 8 && event.flags == POLLND_LAST);
    IS(event.status == -ENETUNREACH && strstr(event.error, "127.0.72.9@tcp5"));
    pollnd_event_release(&event);

    /* The net contract. */
    const struct pollnd_net *net = NULL;
    struct pollnd_net_event ne;
    uint64_t tm, ep;
    REFUSED(pollnd_net_of(NULL, POLLND_NET_SOCK, &net), -EINVAL, "node is null");
    REFUSED(pollnd_net_of(node, POLLND_NET_SOCK, NULL), -EINVAL, "net is null");
    REFUSED(pollnd_net_of(node, 3, &net), -EINVAL, "transport 3");
    REFUSED(pollnd_net_of(node, POLLND_NET_LNET, &net), -ENOENT, "POLLND_NET_OVER_LNET");
    IS(net == NULL && pollnd_net_of(node, POLLND_NET_SOCK, &net) == 0);
    REFUSED(pollnd_net_start(NULL, o.net_sock, 1, &tm), -EINVAL, "net is null");
    REFUSED(pollnd_net_start(net, o.net_sock, 1, NULL), -EINVAL, "tm is null");
    REFUSED(pollnd_net_stop(net, 5, 0), -ENOENT, "0x5");
    REFUSED(pollnd_net_ep(net, 5, o.net_sock, 1, &ep), -ENOENT, "0x5");
    REFUSED(pollnd_net_del(net, 5), -ENOENT, "0x5");
    REFUSED(pollnd_net_next(net, 0, NULL), -EINVAL, "event is null");
    IS(pollnd_net_next(net, 0, &ne) == 0);
    struct pollnd_net_args b = { .size = sizeof b, .tm = 5, .memory = memory, .length = 100 }, c;
#define BUFFER(member, value) (c = b, c.member = (value), &c)
    REFUSED(pollnd_net_add(net, NULL, 1, NULL), -EINVAL, "args is null");
    REFUSED(pollnd_net_add(net, BUFFER(size, 9), 1, NULL), -EINVAL, "size 9");
    REFUSED(pollnd_net_add(net, BUFFER(queue, 6), 1, NULL), -EINVAL, "queue 6");
    REFUSED(pollnd_net_add(net, BUFFER(memory, NULL), 1, NULL), -EINVAL, "memory is null");
    REFUSED(pollnd_net_add(net, BUFFER(length, 101), 1, NULL), -EINVAL, "101 bytes");
    REFUSED(pollnd_net_add(net, BUFFER(desc_length, 100), 1, NULL), -EINVAL, "desc is null");
    REFUSED(pollnd_net_add(net, &b, 1, NULL), -ENOENT, "0x5");
    /* Pools and synchronous delivery. */
    struct pollnd_net_setup t = { .size = sizeof t, .address = o.net_sock, .pool = 5, .min_size = 64 }, u;
    uint64_t pool;
#define SETUP(member, value) (u = t, u.member = (value), &u)
    REFUSED(pollnd_net_start_with(NULL, &t, 1, &tm), -EINVAL, "net is null");
    REFUSED(pollnd_net_start_with(net, NULL, 1, &tm), -EINVAL, "setup is null");
    REFUSED(pollnd_net_start_with(net, SETUP(size, 9), 1, &tm), -EINVAL, "size 9");
    REFUSED(pollnd_net_start_with(net, &t, 1, NULL), -EINVAL, "tm is null");
    REFUSED(pollnd_net_start_with(net, SETUP(flags, 2), 1, &tm), -EINVAL, "flags 0x2");
    REFUSED(pollnd_net_start_with(net, SETUP(min_size, 0), 1, &tm), -EINVAL, "min_size 0");
    REFUSED(pollnd_net_start_with(net, SETUP(pool, 0), 1, &tm), -EINVAL, "min_size 64");
    REFUSED(pollnd_net_start_with(net, &t, 1, &tm), -ENOENT, "0x5");
    REFUSED(pollnd_net_pool(net, 1, 1025, 1, &pool), -EINVAL, "colours 1025");
    REFUSED(pollnd_net_pool(net, 1, 1, 1, NULL), -EINVAL, "pool is null");
    REFUSED(pollnd_net_pool_put(net, 5, 0, NULL, 100, 1, NULL), -EINVAL, "memory is null");
    REFUSED(pollnd_net_pool_put(net, 5, 0, memory, 101, 1, NULL), -EINVAL, "101 bytes");
    REFUSED(pollnd_net_pool_put(net, 5, 0, memory, 100, 1, NULL), -ENOENT, "0x5");
    REFUSED(pollnd_net_pool_get(net, 5, 0, 1), -ENOENT, "0x5");
    REFUSED(pollnd_net_pool_count(net, 5, 1), -ENOENT, "0x5");
    REFUSED(pollnd_net_pool_free(net, 5), -ENOENT, "0x5");
    REFUSED(pollnd_net_pool_length(net, 5, 3, 1), -ENOENT, "0x5");
    REFUSED(pollnd_net_deficit(net, 5, 1), -ENOENT, "0x5");
    REFUSED(pollnd_net_deliver(net, 5, 1), -ENOENT, "0x5");
    REFUSED(pollnd_net_pending(net, 5, 1), -ENOENT, "0x5");
    REFUSED(pollnd_net_notify(net, 5, 1), -ENOENT, "0x5");
    REFUSED(pollnd_net_stats(net, 5, 6, 0, 1), -EINVAL, "queue 6");
    REFUSED(pollnd_net_stats(net, 5, 0, 0, 1), -ENOENT, "0x5");
    /* A machine on a CPT that is not the node's fails, and a pool that was freed is none. */
    IS(pollnd_net_pool(net, 0, 0, 46, &pool) == 0);
    t.pool = pool;
    IS(pollnd_net_start_with(net, SETUP(cpts, 2), 40, &tm) == 0);
    IS(pollnd_net_next(net, 60000, &ne) == 1 && ne.kind == POLLND_NET_STATE && ne.state == POLLND_TM_FAILED);
    IS(ne.tag == 40 && ne.flags == POLLND_LAST && ne.status == -EINVAL && strstr(ne.error, "CPT 0"));
    pollnd_net_release(&ne);
    IS(pollnd_net_pool_free(net, pool) == 0);
    IS(pollnd_net_pool_put(net, pool, 0, memory, 100, 47, NULL) == 0);
    for (int last = 0; last < 2; pollnd_net_release(&ne), last++) {
        IS(pollnd_net_next(net, 60000, &ne) == 1 && ne.flags == POLLND_LAST);
        IS(ne.tag == 46 ? ne.kind == POLLND_NET_POOL && ne.status == 0
                        : ne.tag == 47 && ne.kind == POLLND_NET_BUFFER && ne.status == -EINVAL);
    }
    /* A machine at another address of the node's. */
    IS(pollnd_net_start(net, "inet:stream:127.0.72.1@20971", 50, &tm) == 0);
    do
        IS(pollnd_net_next(net, 60000, &ne) == 1 && ne.tag == 50 && ne.status == 0);
    while (ne.state != POLLND_TM_STARTED);
    IS(pollnd_net_stop(net, tm, 0) == 0);
    do
        IS(pollnd_net_next(net, 60000, &ne) == 1 && ne.tag == 50 && ne.status == 0);
    while (ne.state != POLLND_TM_STOPPED);
    /* A machine at an address of another host fails, in an event, and its name is dead. */
    IS(pollnd_net_start(net, "inet:stream:192.0.2.77@20971", 41, &tm) == 0);
    IS(pollnd_net_next(net, 60000, &ne) == 1 && ne.kind == POLLND_NET_STATE && ne.state == POLLND_TM_FAILED);
    IS(ne.tag == 41 && ne.name == tm && ne.flags == POLLND_LAST && ne.status == -EADDRNOTAVAIL);
    IS(ne.error && ne.error[0]);
    pollnd_net_release(&ne);
    pollnd_net_release(&ne);
    pollnd_net_release(NULL);
    REFUSED(pollnd_net_stop(net, tm, 1), -ENOENT, "has ended");
    /* An end-point that is none, and a buffer for it. */
    IS(pollnd_net_start(net, o.net_sock, 42, &tm) == 0);
    do
        IS(pollnd_net_next(net, 60000, &ne) == 1 && ne.tag == 42 && ne.status == 0);
    while (ne.state != POLLND_TM_STARTED);
    /* A machine without a pool, whose events do not wait. */
    IS(pollnd_net_pool_length(net, tm, 3, 48) == 0);
    IS(pollnd_net_next(net, 60000, &ne) == 1 && ne.kind == POLLND_NET_COUNT && ne.tag == 48);
    IS(ne.flags == POLLND_LAST && ne.status == -EINVAL && strstr(ne.error, "pool"));
    pollnd_net_release(&ne);
    IS(pollnd_net_notify(net, tm, 49) == 0);
    IS(pollnd_net_next(net, 60000, &ne) == 1 && ne.kind == POLLND_NET_PENDING && ne.tag == 49);
    IS(ne.flags == POLLND_LAST && ne.status == -EINVAL && strstr(ne.error, "synchronous delivery"));
    pollnd_net_release(&ne);
    IS(pollnd_net_ep(net, tm, "nowhere", 43, &ep) == 0);
    IS(pollnd_net_next(net, 60000, &ne) == 1 && ne.kind == POLLND_NET_EP && ne.tag == 43 && ne.status == -EINVAL);
    IS(strstr(ne.error, "nowhere") != NULL);
    pollnd_net_release(&ne);
    b.tm = tm;
    b.queue = POLLND_MSG_SEND;
    b.ep = ep;
    IS(pollnd_net_add(net, &b, 44, NULL) == 0);
    IS(pollnd_net_next(net, 60000, &ne) == 1 && ne.kind == POLLND_NET_BUFFER && ne.tag == 44 && ne.flags == POLLND_LAST);
    IS(ne.status == -EINVAL && strstr(ne.error, "end-point"));
    pollnd_net_release(&ne);
    /* A buffer that the node goes down with. */
    b.queue = POLLND_MSG_RECV;
    IS(pollnd_net_add(net, &b, 45, NULL) == 0);
    IS(pollnd_net_next(net, 60000, &ne) == 1 && ne.kind == POLLND_NET_ADDED && ne.tag == 45);

    /* What a node goes down with ends, once. */
    e.kind = POLLND_ENTRY_LEND;
    e.memory = NULL;
    IS(pollnd_attach(node, &e, 31, NULL) == 0);
    IS(pollnd_node_stop(node) == 0);
    IS(pollnd_node_stop(node) == 0);
    REFUSED(pollnd_ping(node, &target, 9), -ESHUTDOWN, "stopped");
    REFUSED(pollnd_lazy(node, 5, 1), -ESHUTDOWN, "stopped");
    int ends = 0, rc;
    while ((rc = pollnd_event_next(node, 60000, &event)) == 1) {
        IS(event.tag == 31);
        ends += event.flags & POLLND_LAST;
        pollnd_event_release(&event);
    }
    IS(rc == -ESHUTDOWN && ends == 1);
    for (ends = 0; (rc = pollnd_net_next(net, 60000, &ne)) == 1; pollnd_net_release(&ne)) {
        IS(ne.tag == 45 || ne.tag == 42);
        if (ne.flags & POLLND_LAST)
            ends += (int)ne.tag;
    }
    IS(rc == -ESHUTDOWN && ends == 45 + 42);
    pollnd_node_free(node);
    pollnd_node_free(NULL);
    IS(pollnd_memory_free(memory) == 0 && pollnd_memory_free(wrapped) == 0 && pollnd_memory_free(NULL) == 0);
    free(own);
    puts("done");
    return 0;
}
