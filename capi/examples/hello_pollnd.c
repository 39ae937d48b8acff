/* Two nodes in one process: a ping, a PUT and a GET, every byte checked. Over kernel sockets on loopback, or, given a folder
 * for its socket, over a virtio link between two DPDK ports.
 *
 *     cc hello_pollnd.c $(pkg-config --cflags --libs pollnd) -o hello_pollnd && ./hello_pollnd
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pollnd.h"

enum { BULK = 300000, PUTS = 5, GETS = 6 };

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

static struct pollnd_node *start(const char *nid, const char *device, const char *eal)
{
    struct pollnd_options options = { .size = sizeof options, .nids = nid, .port = 20988 };
    struct pollnd_node *node;

    options.flags = POLLND_UNPRIVILEGED;
    options.device = device;
    options.eal_args = eal;
    options.memory_mb = device ? 512 : 0;
    check(pollnd_node_start(&options, &node), nid);
    return node;
}

/* The next event, of this kind, waited for up to a minute. */
static struct pollnd_event next(struct pollnd_node *node, uint32_t kind)
{
    struct pollnd_event event;
    int rc = pollnd_event_next(node, 60000, &event);

    check(rc, "event");
    expect(rc == 1, "no event came");
    if (event.status != 0 || event.kind != kind) {
        fprintf(stderr, "event %u, not %u: %d: %s\n", event.kind, kind, event.status,
                event.error ? event.error : "");
        exit(1);
    }
    return event;
}

static unsigned char byte_at(size_t i)
{
    return (unsigned char)(i * 7 + i / 256);
}

int main(int argc, char **argv)
{
    char vhost[256] = "", virtio[256] = "", name[64];
    const char *here = "127.0.71.1@tcp", *there = "127.0.71.2@tcp";
    int dpdk = argc > 1;

    if (dpdk) {
        snprintf(vhost, sizeof vhost, "net_vhost0,iface=%s/c.sock,tso=1", argv[1]);
        snprintf(virtio, sizeof virtio, "net_virtio_user0,path=%s/c.sock,queue_size=1024,mrg_rxbuf=1", argv[1]);
        here = "10.71.0.1@tcp";
        there = "10.71.0.2@tcp";
    }
    /* The end that has the socket first. */
    struct pollnd_node *theirs = start(there, dpdk ? vhost : NULL, argc > 2 ? argv[2] : NULL);
    struct pollnd_node *ours = start(here, dpdk ? virtio : NULL, NULL);
    struct pollnd_process target;
    struct pollnd_nid nid;
    struct pollnd_event event;

    check(pollnd_node_nid(theirs, 0, &nid), "NID");
    check(pollnd_nid_text(&nid, name, sizeof name), "NID");
    check(pollnd_process_parse(name, &target), name);

    check(pollnd_ping(ours, &target, 1), "ping");
    event = next(ours, POLLND_EVENT_PING);
    expect(event.tag == 1 && event.nis_count > 0, "the ping told nothing");
    printf("ping: %s, %u interfaces, %llu us\n", name, (unsigned)event.nis_count,
           (unsigned long long)event.rtt_ns / 1000);
    pollnd_event_release(&event);

    /* They take PUTs in the buffers that these come in, and give what is in their memory. */
    struct pollnd_memory *given, *sent, *filled;
    check(pollnd_memory_alloc(theirs, BULK, &given), "memory");
    unsigned char *bytes = pollnd_memory_bytes(given);
    for (size_t i = 0; i < BULK; i++)
        bytes[i] = byte_at(i + 1);
    struct pollnd_entry_args take = { .size = sizeof take, .kind = POLLND_ENTRY_LEND, .portal = PUTS };
    struct pollnd_entry_args give = { .size = sizeof give, .kind = POLLND_ENTRY_GIVE, .portal = GETS };
    uint64_t taken, entry;
    take.length = give.length = BULK;
    give.memory = given;
    check(pollnd_attach(theirs, &take, 10, &taken), "attach");
    event = next(theirs, POLLND_EVENT_ATTACHED);
    expect(event.entry == taken, "another entry");
    check(pollnd_attach(theirs, &give, 11, &entry), "attach");
    event = next(theirs, POLLND_EVENT_ATTACHED);

    /* PUT, from memory, without a copy. The SEND event gives it back. */
    check(pollnd_memory_alloc(ours, BULK, &sent), "memory");
    bytes = pollnd_memory_bytes(sent);
    for (size_t i = 0; i < BULK; i++)
        bytes[i] = byte_at(i);
    struct pollnd_put_args put = { .size = sizeof put, .target = target, .portal = PUTS, .hdr_data = 42 };
    put.memory = sent;
    put.length = BULK;
    check(pollnd_put(ours, &put, 2), "PUT");
    event = next(theirs, POLLND_EVENT_PUT);
    expect(event.tag == 10 && event.mlength == BULK && event.hdr_data == 42, "another PUT");
    size_t at = 0;
    for (size_t p = 0; p < event.pieces_count; p++)
        for (size_t i = 0; i < event.pieces[p].length; i++, at++)
            expect(((const unsigned char *)event.pieces[p].base)[i] == byte_at(at), "a byte of the PUT is wrong");
    expect(at == BULK, "bytes of the PUT are missing");
    printf("PUT: %zu bytes in %zu pieces\n", at, event.pieces_count);
    pollnd_event_release(&event);
    event = next(ours, POLLND_EVENT_SEND);
    expect(event.tag == 2 && event.flags == POLLND_LAST, "the PUT has not ended");
    check(pollnd_memory_free(sent), "free");

    /* A small PUT from anywhere, copied, with an ACK. */
    struct pollnd_put_args small = { .size = sizeof small, .target = target, .portal = PUTS };
    small.flags = POLLND_WANT_ACK;
    small.bytes = "hello";
    small.length = 5;
    check(pollnd_put(ours, &small, 3), "PUT");
    event = next(theirs, POLLND_EVENT_PUT);
    expect(event.pieces_count == 1 && memcmp(event.pieces[0].base, "hello", 5) == 0, "another text");
    pollnd_event_release(&event);
    for (int last = 0; !last; last = event.flags & POLLND_LAST) {
        check(pollnd_event_next(ours, 60000, &event), "event");
        expect(event.tag == 3 && event.status == 0, "the PUT failed");
    }

    /* GET, into memory. */
    check(pollnd_memory_alloc(ours, BULK, &filled), "memory");
    struct pollnd_get_args get = { .size = sizeof get, .target = target, .portal = GETS, .length = BULK };
    get.memory = filled;
    check(pollnd_get(ours, &get, 4), "GET");
    expect(pollnd_memory_free(filled) == -16 /* EBUSY */, "memory that is in use was freed");
    event = next(ours, POLLND_EVENT_REPLY);
    expect(event.tag == 4 && event.mlength == BULK, "another REPLY");
    bytes = pollnd_memory_bytes(filled);
    for (size_t i = 0; i < BULK; i++)
        expect(bytes[i] == byte_at(i + 1), "a byte of the GET is wrong");
    printf("GET: %u bytes\n", event.mlength);
    check(pollnd_memory_free(filled), "free");
    event = next(theirs, POLLND_EVENT_GET);

    check(pollnd_unlink(theirs, taken), "unlink");
    event = next(theirs, POLLND_EVENT_UNLINK);
    expect(event.tag == 10 && event.flags == POLLND_LAST, "another entry has gone");
    check(pollnd_unlink(theirs, entry), "unlink");
    event = next(theirs, POLLND_EVENT_UNLINK);
    check(pollnd_memory_free(given), "free");

    check(pollnd_node_stop(ours), "stop");
    check(pollnd_node_stop(theirs), "stop");
    pollnd_node_free(ours);
    pollnd_node_free(theirs);
    puts("done");
    return 0;
}
