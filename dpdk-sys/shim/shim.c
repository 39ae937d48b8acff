/* Linkable forms of DPDK's inline functions. See wrapper.h. */
#include "wrapper.h"

#include <stddef.h>
#include <rte_cycles.h>

/* The flat views against the headers at hand: a DPDK that moves a member does not compile. */
#define SAME_AS(ours, our_member, theirs, their_member)                                                              \
	_Static_assert(offsetof(struct ours, our_member) == offsetof(struct theirs, their_member) &&                 \
			       sizeof(((struct ours *)0)->our_member) ==                                             \
				       sizeof(((struct theirs *)0)->their_member),                                   \
		       "struct " #theirs ": " #their_member " is not where pollnd reads it")
#define MBUF(member) SAME_AS(shim_mbuf, member, rte_mbuf, member)
#define INFO(member) SAME_AS(shim_shared_info, member, rte_mbuf_ext_shared_info, member)

MBUF(buf_addr);
#if SHIM_IOVA_IN_MBUF
MBUF(buf_iova);
#else
MBUF(dynfield2);
#endif
MBUF(data_off);
MBUF(refcnt);
MBUF(nb_segs);
MBUF(port);
MBUF(ol_flags);
MBUF(packet_type);
MBUF(pkt_len);
MBUF(data_len);
MBUF(vlan_tci);
SAME_AS(shim_mbuf, rss, rte_mbuf, hash.rss);
SAME_AS(shim_mbuf, hash_hi, rte_mbuf, hash.fdir.hi);
MBUF(vlan_tci_outer);
MBUF(buf_len);
MBUF(pool);
MBUF(next);
MBUF(tx_offload);
MBUF(shinfo);
MBUF(priv_size);
MBUF(timesync);
MBUF(dynfield1);
_Static_assert(sizeof(struct shim_mbuf) == sizeof(struct rte_mbuf), "struct rte_mbuf has another size");
_Static_assert(_Alignof(struct shim_mbuf) == _Alignof(struct rte_mbuf), "struct rte_mbuf has another alignment");
INFO(free_cb);
INFO(fcb_opaque);
INFO(refcnt);
_Static_assert(sizeof(struct shim_shared_info) == sizeof(struct rte_mbuf_ext_shared_info),
	       "struct rte_mbuf_ext_shared_info has another size");

#define THEIRS(m) ((struct rte_mbuf *)(uintptr_t)(m))
#define THEIRS_ALL(pkts) ((struct rte_mbuf **)(uintptr_t)(pkts))
#define THEIR_INFO(s) ((struct rte_mbuf_ext_shared_info *)(uintptr_t)(s))

uint16_t shim_eth_rx_burst(uint16_t port, uint16_t queue, struct shim_mbuf **pkts, uint16_t n)
{
	return rte_eth_rx_burst(port, queue, THEIRS_ALL(pkts), n);
}

uint16_t shim_eth_tx_burst(uint16_t port, uint16_t queue, struct shim_mbuf **pkts, uint16_t n)
{
	return rte_eth_tx_burst(port, queue, THEIRS_ALL(pkts), n);
}

uint16_t shim_eth_tx_prepare(uint16_t port, uint16_t queue, struct shim_mbuf **pkts, uint16_t n)
{
	return rte_eth_tx_prepare(port, queue, THEIRS_ALL(pkts), n);
}

struct shim_mbuf *shim_pktmbuf_alloc(struct rte_mempool *pool)
{
	return (struct shim_mbuf *)rte_pktmbuf_alloc(pool);
}

int shim_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct shim_mbuf **pkts, unsigned n)
{
	return rte_pktmbuf_alloc_bulk(pool, THEIRS_ALL(pkts), n);
}

void shim_pktmbuf_free(struct shim_mbuf *m)
{
	rte_pktmbuf_free(THEIRS(m));
}

void shim_pktmbuf_free_seg(struct shim_mbuf *m)
{
	rte_pktmbuf_free_seg(THEIRS(m));
}

void shim_pktmbuf_free_bulk(struct shim_mbuf **pkts, unsigned n)
{
	rte_pktmbuf_free_bulk(THEIRS_ALL(pkts), n);
}

void shim_pktmbuf_attach_extbuf(struct shim_mbuf *m, void *addr, rte_iova_t iova, uint16_t len,
				struct shim_shared_info *shinfo)
{
	rte_pktmbuf_attach_extbuf(THEIRS(m), addr, iova, len, THEIR_INFO(shinfo));
}

uint16_t shim_mbuf_refcnt_read(const struct shim_mbuf *m)
{
	return rte_mbuf_refcnt_read(THEIRS(m));
}

rte_iova_t shim_pktmbuf_iova(const struct shim_mbuf *m)
{
	return rte_pktmbuf_iova(THEIRS(m));
}

uint16_t shim_pktmbuf_headroom(const struct shim_mbuf *m)
{
	return rte_pktmbuf_headroom(THEIRS(m));
}

uint16_t shim_pktmbuf_data_room_size(struct rte_mempool *pool)
{
	return rte_pktmbuf_data_room_size(pool);
}

uint16_t shim_mbuf_ext_refcnt_read(const struct shim_shared_info *shinfo)
{
	return rte_mbuf_ext_refcnt_read(THEIR_INFO(shinfo));
}

void shim_mbuf_ext_refcnt_set(struct shim_shared_info *shinfo, uint16_t value)
{
	rte_mbuf_ext_refcnt_set(THEIR_INFO(shinfo), value);
}

uint16_t shim_mbuf_ext_refcnt_update(struct shim_shared_info *shinfo, int16_t value)
{
	return rte_mbuf_ext_refcnt_update(THEIR_INFO(shinfo), value);
}

uint64_t shim_mbuf_tx_offload(uint8_t l2_len, uint16_t l3_len, uint8_t l4_len, uint16_t tso_segsz)
{
	struct rte_mbuf m;

	m.tx_offload = 0;
	m.l2_len = l2_len;
	m.l3_len = l3_len;
	m.l4_len = l4_len;
	m.tso_segsz = tso_segsz;
	return m.tx_offload;
}

int shim_eth_link(uint16_t port, uint32_t *mbps)
{
	struct rte_eth_link l;
	int r;

	memset(&l, 0, sizeof(l));
	r = rte_eth_link_get_nowait(port, &l);
	if (r < 0)
		return r;
	*mbps = l.link_speed;
	return l.link_status == RTE_ETH_LINK_UP;
}

int shim_eth_rss_get(uint16_t port, uint8_t *key, uint8_t *len, uint64_t *hf)
{
	struct rte_eth_rss_conf c;
	int r;

	memset(&c, 0, sizeof(c));
	c.rss_key = key;
	c.rss_key_len = *len;
	r = rte_eth_dev_rss_hash_conf_get(port, &c);
	if (r < 0)
		return r;
#if RTE_VERSION >= RTE_VERSION_NUM(23, 11, 0, 0)
	if (c.algorithm != RTE_ETH_HASH_FUNCTION_DEFAULT && c.algorithm != RTE_ETH_HASH_FUNCTION_TOEPLITZ)
		return -ENOTSUP;
#endif
	*len = c.rss_key_len;
	*hf = c.rss_hf;
	return 0;
}

int shim_eth_rss_set(uint16_t port, uint8_t *key, uint8_t len, uint64_t hf)
{
	struct rte_eth_rss_conf c;

	/* An algorithm of 0 is the device's default; those that know several have Toeplitz's as that. */
	memset(&c, 0, sizeof(c));
	c.rss_key = key;
	c.rss_key_len = key == NULL ? 0 : len;
	c.rss_hf = hf;
	return rte_eth_dev_rss_hash_update(port, &c);
}

void *shim_memzone_addr(const struct rte_memzone *zone)
{
	return zone->addr;
}

rte_iova_t shim_memzone_iova(const struct rte_memzone *zone)
{
	return zone->iova;
}

int shim_tel_data_add_dict_uint(struct rte_tel_data *d, const char *name, uint64_t value)
{
#if RTE_VERSION >= RTE_VERSION_NUM(23, 3, 0, 0)
	return rte_tel_data_add_dict_uint(d, name, value);
#else
	return rte_tel_data_add_dict_u64(d, name, value);
#endif
}

unsigned shim_mempool_avail_near(struct rte_mempool *pool)
{
	unsigned me = rte_lcore_id(), main_id = rte_get_main_lcore();
	unsigned n = rte_mempool_get_ops(pool->ops_index)->get_count(pool);

	if (pool->cache_size == 0)
		return n;
	if (me < RTE_MAX_LCORE)
		n += pool->local_cache[me].len;
	if (main_id < RTE_MAX_LCORE && main_id != me)
		n += pool->local_cache[main_id].len;
	/* As in rte_mempool_avail_count: racing with others may count an object twice. */
	return n > pool->size ? pool->size : n;
}

unsigned shim_lcore_id(void)
{
	return rte_lcore_id();
}

int shim_errno(void)
{
	return rte_errno;
}

uint64_t shim_rdtsc(void)
{
	return rte_rdtsc();
}
