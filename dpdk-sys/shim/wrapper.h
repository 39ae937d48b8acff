/* What the bindings see: the parts of DPDK that pollnd uses, and shims for what DPDK only has as inline code.
 *
 * Names: shim_X stands for the inline function rte_X; SHIM_X for the macro RTE_X, which bindgen cannot evaluate
 * because it expands to a cast or to another function-like macro. */
#ifndef POLLND_SHIM_H
#define POLLND_SHIM_H

#include <stdint.h>
#include <rte_bus.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_memory.h>
#include <rte_memzone.h>
#include <rte_telemetry.h>
#include <rte_version.h>

uint16_t shim_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **pkts, uint16_t n);
uint16_t shim_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **pkts, uint16_t n);
uint16_t shim_eth_tx_prepare(uint16_t port, uint16_t queue, struct rte_mbuf **pkts, uint16_t n);

struct rte_mbuf *shim_pktmbuf_alloc(struct rte_mempool *pool);
int shim_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **pkts, unsigned n);
void shim_pktmbuf_free(struct rte_mbuf *m);
void shim_pktmbuf_free_seg(struct rte_mbuf *m);
void shim_pktmbuf_attach_extbuf(struct rte_mbuf *m, void *addr, rte_iova_t iova, uint16_t len,
				struct rte_mbuf_ext_shared_info *shinfo);
uint16_t shim_mbuf_refcnt_read(const struct rte_mbuf *m);
rte_iova_t shim_pktmbuf_iova(const struct rte_mbuf *m);
uint16_t shim_pktmbuf_headroom(const struct rte_mbuf *m);
uint16_t shim_pktmbuf_data_room_size(struct rte_mempool *pool);
/* Frees the n chains in one pass. NULL entries are skipped. */
void shim_pktmbuf_free_bulk(struct rte_mbuf **pkts, unsigned n);

uint16_t shim_mbuf_ext_refcnt_read(const struct rte_mbuf_ext_shared_info *shinfo);
void shim_mbuf_ext_refcnt_set(struct rte_mbuf_ext_shared_info *shinfo, uint16_t value);
uint16_t shim_mbuf_ext_refcnt_update(struct rte_mbuf_ext_shared_info *shinfo, int16_t value);

/* Free objects of a pool that only the calling lcore and the main lcore use: its ring and their two caches.
 * rte_mempool_avail_count walks the caches of all lcores, too dear for a poll loop. */
unsigned shim_mempool_avail_near(struct rte_mempool *pool);

unsigned shim_lcore_id(void);
int shim_errno(void);
uint64_t shim_rdtsc(void);

static const unsigned SHIM_LCORE_ID_ANY = UINT32_MAX;
static const uint64_t SHIM_BAD_IOVA = RTE_BAD_IOVA;
static const uint16_t SHIM_MBUF_MAX_NB_SEGS = RTE_MBUF_MAX_NB_SEGS;
static const uint16_t SHIM_PKTMBUF_HEADROOM = RTE_PKTMBUF_HEADROOM;

static const uint64_t SHIM_ETH_RX_OFFLOAD_VLAN_STRIP = RTE_ETH_RX_OFFLOAD_VLAN_STRIP;
static const uint64_t SHIM_ETH_RX_OFFLOAD_IPV4_CKSUM = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
static const uint64_t SHIM_ETH_RX_OFFLOAD_UDP_CKSUM = RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
static const uint64_t SHIM_ETH_RX_OFFLOAD_TCP_CKSUM = RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
static const uint64_t SHIM_ETH_RX_OFFLOAD_TCP_LRO = RTE_ETH_RX_OFFLOAD_TCP_LRO;
static const uint64_t SHIM_ETH_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t SHIM_ETH_RX_OFFLOAD_RSS_HASH = RTE_ETH_RX_OFFLOAD_RSS_HASH;
static const uint64_t SHIM_ETH_TX_OFFLOAD_VLAN_INSERT = RTE_ETH_TX_OFFLOAD_VLAN_INSERT;
static const uint64_t SHIM_ETH_TX_OFFLOAD_IPV4_CKSUM = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
static const uint64_t SHIM_ETH_TX_OFFLOAD_UDP_CKSUM = RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
static const uint64_t SHIM_ETH_TX_OFFLOAD_TCP_CKSUM = RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
static const uint64_t SHIM_ETH_TX_OFFLOAD_TCP_TSO = RTE_ETH_TX_OFFLOAD_TCP_TSO;
static const uint64_t SHIM_ETH_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;

static const uint64_t SHIM_ETH_RSS_IPV4 = RTE_ETH_RSS_IPV4;
static const uint64_t SHIM_ETH_RSS_IPV6 = RTE_ETH_RSS_IPV6;
static const uint64_t SHIM_ETH_RSS_NONFRAG_IPV4_TCP = RTE_ETH_RSS_NONFRAG_IPV4_TCP;
static const uint64_t SHIM_ETH_RSS_NONFRAG_IPV6_TCP = RTE_ETH_RSS_NONFRAG_IPV6_TCP;
static const uint32_t SHIM_ETH_MQ_RX_NONE = RTE_ETH_MQ_RX_NONE;
static const uint32_t SHIM_ETH_MQ_RX_RSS = RTE_ETH_MQ_RX_RSS;

static const uint64_t SHIM_MBUF_F_RX_VLAN_STRIPPED = RTE_MBUF_F_RX_VLAN_STRIPPED;
static const uint64_t SHIM_MBUF_F_RX_RSS_HASH = RTE_MBUF_F_RX_RSS_HASH;
static const uint64_t SHIM_MBUF_F_RX_LRO = RTE_MBUF_F_RX_LRO;
static const uint64_t SHIM_MBUF_F_RX_IP_CKSUM_MASK = RTE_MBUF_F_RX_IP_CKSUM_MASK;
static const uint64_t SHIM_MBUF_F_RX_IP_CKSUM_BAD = RTE_MBUF_F_RX_IP_CKSUM_BAD;
static const uint64_t SHIM_MBUF_F_RX_L4_CKSUM_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t SHIM_MBUF_F_RX_L4_CKSUM_UNKNOWN = RTE_MBUF_F_RX_L4_CKSUM_UNKNOWN;
static const uint64_t SHIM_MBUF_F_RX_L4_CKSUM_BAD = RTE_MBUF_F_RX_L4_CKSUM_BAD;
static const uint64_t SHIM_MBUF_F_RX_L4_CKSUM_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
static const uint64_t SHIM_MBUF_F_RX_L4_CKSUM_NONE = RTE_MBUF_F_RX_L4_CKSUM_NONE;
static const uint64_t SHIM_MBUF_F_TX_VLAN = RTE_MBUF_F_TX_VLAN;
static const uint64_t SHIM_MBUF_F_TX_IPV4 = RTE_MBUF_F_TX_IPV4;
static const uint64_t SHIM_MBUF_F_TX_IPV6 = RTE_MBUF_F_TX_IPV6;
static const uint64_t SHIM_MBUF_F_TX_IP_CKSUM = RTE_MBUF_F_TX_IP_CKSUM;
static const uint64_t SHIM_MBUF_F_TX_TCP_CKSUM = RTE_MBUF_F_TX_TCP_CKSUM;
static const uint64_t SHIM_MBUF_F_TX_UDP_CKSUM = RTE_MBUF_F_TX_UDP_CKSUM;
static const uint64_t SHIM_MBUF_F_TX_TCP_SEG = RTE_MBUF_F_TX_TCP_SEG;
static const uint64_t SHIM_MBUF_F_EXTERNAL = RTE_MBUF_F_EXTERNAL;

#endif
