/* Linkable forms of DPDK's inline functions. See wrapper.h. */
#include "wrapper.h"

#include <rte_cycles.h>

uint16_t shim_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **pkts, uint16_t n)
{
	return rte_eth_rx_burst(port, queue, pkts, n);
}

uint16_t shim_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **pkts, uint16_t n)
{
	return rte_eth_tx_burst(port, queue, pkts, n);
}

uint16_t shim_eth_tx_prepare(uint16_t port, uint16_t queue, struct rte_mbuf **pkts, uint16_t n)
{
	return rte_eth_tx_prepare(port, queue, pkts, n);
}

struct rte_mbuf *shim_pktmbuf_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

int shim_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **pkts, unsigned n)
{
	return rte_pktmbuf_alloc_bulk(pool, pkts, n);
}

void shim_pktmbuf_free(struct rte_mbuf *m)
{
	rte_pktmbuf_free(m);
}

void shim_pktmbuf_free_seg(struct rte_mbuf *m)
{
	rte_pktmbuf_free_seg(m);
}

void shim_pktmbuf_free_bulk(struct rte_mbuf **pkts, unsigned n)
{
	rte_pktmbuf_free_bulk(pkts, n);
}

void shim_pktmbuf_attach_extbuf(struct rte_mbuf *m, void *addr, rte_iova_t iova, uint16_t len,
				struct rte_mbuf_ext_shared_info *shinfo)
{
	rte_pktmbuf_attach_extbuf(m, addr, iova, len, shinfo);
}

uint16_t shim_mbuf_refcnt_read(const struct rte_mbuf *m)
{
	return rte_mbuf_refcnt_read(m);
}

rte_iova_t shim_pktmbuf_iova(const struct rte_mbuf *m)
{
	return rte_pktmbuf_iova(m);
}

uint16_t shim_pktmbuf_headroom(const struct rte_mbuf *m)
{
	return rte_pktmbuf_headroom(m);
}

uint16_t shim_pktmbuf_data_room_size(struct rte_mempool *pool)
{
	return rte_pktmbuf_data_room_size(pool);
}

uint16_t shim_mbuf_ext_refcnt_read(const struct rte_mbuf_ext_shared_info *shinfo)
{
	return rte_mbuf_ext_refcnt_read(shinfo);
}

void shim_mbuf_ext_refcnt_set(struct rte_mbuf_ext_shared_info *shinfo, uint16_t value)
{
	rte_mbuf_ext_refcnt_set(shinfo, value);
}

uint16_t shim_mbuf_ext_refcnt_update(struct rte_mbuf_ext_shared_info *shinfo, int16_t value)
{
	return rte_mbuf_ext_refcnt_update(shinfo, value);
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
