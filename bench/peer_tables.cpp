// Look-ups of MAC addresses in the tables of others: peer_tables absl|dpdk, compiled where their headers are (-DABSL, -DDPDK).
// Reads from standard input: number of entries, number of look-ups (u32 each), the entries, the look-ups (u64 each).
// Prints seconds of the fastest of five passes over all look-ups, and how many were found.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <vector>
#include <unistd.h>
#ifdef ABSL
#include <absl/container/flat_hash_map.h>
#endif
#ifdef DPDK
#include <rte_eal.h>
#include <rte_hash.h>
#include <rte_jhash.h>
#include <rte_hash_crc.h>
#endif

static std::vector<uint64_t> read_words(size_t n)
{
    std::vector<uint64_t> words(n);
    if (fread(words.data(), 8, n, stdin) != n)
        _exit(2);
    return words;
}

template <class Pass> static void report(Pass pass)
{
    double best = 1e9;
    uint64_t found = 0;
    for (int round = 0; round < 5; round++) {
        auto began = std::chrono::steady_clock::now();
        found = pass();
        double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
        best = took < best ? took : best;
    }
    printf("%.9f %llu\n", best, (unsigned long long)found);
}

int main(int argc, char **argv)
{
    uint32_t sizes[2];
    if (fread(sizes, 4, 2, stdin) != 2)
        return 2;
    auto entries = read_words(sizes[0]), wanted = read_words(sizes[1]);
    const size_t n = wanted.size();
#ifdef ABSL
    absl::flat_hash_map<uint64_t, uint32_t> map;
    map.reserve(entries.size());
    for (size_t i = 0; i < entries.size(); i++)
        map[entries[i]] = (uint32_t)i;
    report([&] {
        uint64_t found = 0;
        for (size_t i = 0; i < n; i++) {
            if (i + 16 < n)
                map.prefetch(wanted[i + 16]);
            found += map.find(wanted[i]) != map.end();
        }
        return found;
    });
#endif
#ifdef DPDK
    const char *eal[] = {argv[0], "--no-huge", "--no-pci", "--no-shconf", "--log-level=1", "-m", "1024", "-l", "0", "--no-telemetry"};
    if (rte_eal_init(sizeof(eal) / sizeof(*eal), (char **)eal) < 0)
        return 3;
    rte_hash_parameters parameters = {};
    parameters.name = "macs";
    parameters.entries = (uint32_t)(entries.size() + entries.size() / 4 + 64);
    parameters.key_len = 8;
    parameters.hash_func = rte_hash_crc;
    rte_hash *hash = rte_hash_create(&parameters);
    if (hash == nullptr)
        return 3;
    for (auto &entry : entries)
        if (rte_hash_add_key_data(hash, &entry, (void *)(uintptr_t)1) < 0)
            return 3;
    report([&] {
        uint64_t found = 0;
        const void *keys[RTE_HASH_LOOKUP_BULK_MAX];
        void *data[RTE_HASH_LOOKUP_BULK_MAX];
        for (size_t i = 0; i < n; i += RTE_HASH_LOOKUP_BULK_MAX) {
            uint32_t count = n - i < RTE_HASH_LOOKUP_BULK_MAX ? (uint32_t)(n - i) : RTE_HASH_LOOKUP_BULK_MAX;
            uint64_t hits = 0;
            for (uint32_t k = 0; k < count; k++)
                keys[k] = &wanted[i + k];
            rte_hash_lookup_bulk_data(hash, keys, count, &hits, data);
            found += (uint64_t)__builtin_popcountll(hits);
        }
        return found;
    });
#endif
    (void)argc;
    return 0;
}
