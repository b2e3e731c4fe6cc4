// Search for clusters of users: some clusters are emptied, grown anew at random and improved by moves and swaps; what
// is worse than before is taken back. The rules of growth are those of grow.py. All is decided by the seed.

#include "state.hpp"

#include <utility>

namespace {

constexpr float kGain = 1e-5f;                     // of a weight of at most 1: what is told from rounding
constexpr float kSeed = 1e-3f;                     // scale of a seed's score: any tie to the cluster counts for more
constexpr float kNoises[] = {0.1f, 0.3f, 0.8f};    // how much a tie may seem stronger than it is
constexpr float kRegrets[] = {0.0f, 0.2f, 0.5f};   // part of the ties to free users that is taken off
constexpr float kSeedTies[] = {0.05f, 10.0f};      // ties beyond this do not make a better seed
constexpr float kShuffle = 2.5f;                   // places by which clusters may differ that swap their turns
constexpr float kFewer = 0.2f;                     // share of clusters that are grown to less than they may have
constexpr float kHopeless = 0.8f;                  // of the value before: what grew to less is not improved
constexpr float kElsewhere = 0.3f;                 // share of clusters opened that nobody need be tied to
constexpr Int kLeast = 2, kMost = 6;               // clusters opened at once
constexpr Int kTries = 4;                          // to meet a user who may be in a cluster with another
constexpr Int kMostMoves = 100000;

class Search : public State {
  public:
    Search(const Problem& problem, const Int* labels, Bits seed)
        : State(problem, labels), random{seed}, place(problem.users, -1), opened(problem.workers, 0),
          sums(problem.workers + 1, 0.0f) {}

    void step(bool all) {
        all ? choose_all() : choose();
        if (!open.empty()) renew();
        for (Int user : local) place[user] = -1;
        for (Int cluster : open) opened[cluster] = 0;
        local.clear(), open.clear();
    }

  private:
    struct Turn {
        float urge;
        Int cluster, count;
    };
    struct Move {
        float gain;
        Int target, other, back;  // where the user goes, who leaves for it and where to; -1 for nobody
    };
    Random random;
    std::vector<Int> local, open;    // users and clusters that the step may change
    std::vector<Int> before, grown;  // labels of the local users
    std::vector<Int> place;          // of a user in `local`, -1 if it is not there
    std::vector<char> opened;        // by cluster
    std::vector<float> sums;         // by cluster, 0 between two uses
    // Of the local users: ties to the cluster that grows and to free users, how they are bent, who may join.
    std::vector<float> toward, loose, noise, luck;
    std::vector<char> able;
    std::vector<Int> fringe;  // places in `local` of those who may join and are tied to the cluster
    std::vector<Turn> turns;
    float regret = 0, seed_ties = 0;

    void admit(Int user) {
        if (place[user] >= 0) return;
        place[user] = Int(local.size());
        local.push_back(user);
    }
    void unlock(Int cluster) {
        if (opened[cluster]) return;
        opened[cluster] = 1;
        open.push_back(cluster);
        for (Int user : members[cluster]) admit(user);
    }
    void choose_all() {
        for (Int cluster = 0; cluster < none; ++cluster) unlock(cluster);
        for (Int user : problem.tied) admit(user);
    }
    // Clusters met from a user by ties and some at random, their members, and free users tied to these.
    void choose() {
        const std::size_t wanted = kLeast + random.below(kMost - kLeast + 1);
        meet(problem.tied[random.below(problem.tied.size())]);
        for (std::size_t tries = 0; tries < 4 * wanted && open.size() < wanted; ++tries) {
            const Int user = local[random.below(local.size())];
            const Span ties = problem.of(user);
            if (random.share() < kElsewhere) unlock_near(user);
            else if (ties.size()) meet(ties.first[random.below(ties.size())].user);
        }
        for (int pass = 0; pass < 2; ++pass)
            for (std::size_t index = 0, count = local.size(); index < count; ++index)
                for (const Tie& tie : problem.of(local[index]))
                    if (label[tie.user] == none) admit(tie.user);
    }
    void meet(Int user) { label[user] == none ? admit(user) : unlock(label[user]); }
    void unlock_near(Int user) {
        const auto& near = problem.near[user];
        if (!near.empty()) unlock(near[random.below(near.size())]);
    }
    void renew() {
        const float value = worth();
        if (grow() < kHopeless * value) return;
        before.clear();
        for (Int user : local) before.push_back(label[user]);
        set(grown);
        descend();
        if (worth() < value) set(before);
    }
    void set(const std::vector<Int>& labels) {
        for (Int user : local) put(user, none);
        for (std::size_t index = 0; index < local.size(); ++index) put(local[index], labels[index]);
    }
    float worth() const {
        float sum = 0;
        for (Int cluster : open)
            for (Int user : members[cluster]) sum += own[user];
        return sum / 2;
    }
    // Labels of the local users into `grown`; what they are worth.
    float grow() {
        draw_rule();
        turns.clear();
        for (Int cluster : open) {
            const Int count = plan(cluster);
            turns.push_back({count + kShuffle * random.share(), cluster, count});
        }
        std::sort(turns.begin(), turns.end(), [](const Turn& a, const Turn& b) { return a.urge > b.urge; });
        float value = 0;
        for (const Turn& turn : turns) value += fill(turn.cluster, turn.count);
        return value;
    }
    void draw_rule() {
        const std::size_t count = local.size();
        const float rough = random.one_of(kNoises);
        regret = random.one_of(kRegrets), seed_ties = random.one_of(kSeedTies);
        grown.assign(count, none), loose.assign(count, 0.0f);
        toward.resize(count), noise.resize(count), luck.resize(count), able.resize(count);
        for (std::size_t index = 0; index < count; ++index) {
            for (const Tie& tie : problem.of(local[index]))
                if (place[tie.user] >= 0) loose[index] += tie.weight;
            noise[index] = 1 + rough * random.share();
            luck[index] = kSeed * random.share();
        }
    }
    // The head-count that a cluster is grown to: that of some user, at times less.
    Int plan(Int cluster) {
        Int count = 0;
        for (Int tries = 0; tries < kTries && count < 2; ++tries)
            count = problem.places(local[random.below(local.size())], cluster);
        if (count < 2)
            for (Int user : local) count = std::max(count, problem.places(user, cluster));
        return count > 2 && random.share() < kFewer ? 2 + random.below(std::size_t(count) - 1) : count;
    }
    float fill(Int cluster, Int count) {
        for (std::size_t index = 0; index < local.size(); ++index) {
            toward[index] = 0;
            able[index] = grown[index] == none && problem.places(local[index], cluster) >= std::max(count, 1);
        }
        fringe.clear();
        float value = 0;
        for (; count > 0; --count) {
            const Int index = fringe.empty() ? best_seed() : best_tied();
            if (index < 0) break;
            value += toward[index];
            take(index, cluster);
        }
        return value;
    }
    Int best_tied() const {
        const auto score = [&](Int index) { return toward[index] * noise[index] - regret * loose[index]; };
        return *std::max_element(fringe.begin(), fringe.end(), [&](Int a, Int b) { return score(a) < score(b); });
    }
    Int best_seed() const {
        Int best = -1;
        float most = -1;
        for (std::size_t index = 0; index < local.size(); ++index) {
            const float score = luck[index] * std::min(loose[index], seed_ties);
            if (able[index] && score > most) most = score, best = Int(index);
        }
        return best;
    }
    void take(Int index, Int cluster) {
        grown[index] = cluster;
        able[index] = 0;
        if (toward[index] > 0) fringe.erase(std::find(fringe.begin(), fringe.end(), index));
        for (const Tie& tie : problem.of(local[index])) {
            const Int other = place[tie.user];
            if (other < 0) continue;
            if (able[other] && toward[other] == 0) fringe.push_back(other);
            toward[other] += tie.weight, loose[other] -= tie.weight;
        }
    }
    void descend() {
        Int moves = 0;
        for (std::size_t index = 0, quiet = 0; quiet < local.size() && moves < kMostMoves; ++quiet) {
            if (improve(local[index])) quiet = 0, ++moves;
            index = index + 1 < local.size() ? index + 1 : 0;
        }
    }
    // The user's best move, alone or in exchange for another, if one gains.
    bool improve(Int user) {
        const Int from = label[user];
        if (problem.total[user] - own[user] <= kGain) return false;
        for (const Tie& tie : problem.of(user)) sums[label[tie.user]] += tie.weight;
        sums[none] = sums[from] = 0;
        Move best{kGain, -1, -1, none};
        for (const Tie& tie : problem.of(user)) {
            const Int cluster = label[tie.user];
            const float gain = std::exchange(sums[cluster], 0.0f) - own[user];
            if (gain > best.gain && opened[cluster]) consider(user, cluster, gain, best);
        }
        if (best.target < 0) return false;
        if (best.other >= 0) put(best.other, none);
        put(user, best.target);
        if (best.other >= 0) put(best.other, best.back);
        return true;
    }
    void consider(Int user, Int cluster, float gain, Move& best) const {
        if (joins(user, cluster)) {
            best = {gain, cluster, -1, none};
            return;
        }
        if (!replaces(user, cluster)) return;
        const Int from = label[user];
        for (Int other : members[cluster]) {
            if (gain - own[other] <= best.gain - problem.total[other]) continue;
            const Int back = replaces(other, from) ? from : none;
            // A tie between the two is lost to each who comes to a cluster that the other leaves.
            const float lost = own[other] + between(user, other) * (back == none ? 1 : 2);
            const float both = gain - lost + tie_to(other, back);
            if (both > best.gain) best = {both, cluster, other, back};
        }
    }
};

}  // namespace

// Improve `labels` [chains, users], each row by itself: `starts` times all clusters are grown anew, `steps` times some.
// Ties of user u are at first[u] to first[u + 1]; most [workers, users]; values [chains] sum the ties within clusters.
extern "C" void convoy_offload_search(Int users, Int workers, const Int* first, const Int* other, const float* weight,
                                      const Int* most, Int chains, Int* labels, float* values, Int starts, Int steps,
                                      Bits seed) {
    const Problem problem(users, workers, first, other, weight, most);
    Random seeds{seed};
    for (Int chain = 0; chain < chains; ++chain) {
        Int* row = labels + std::size_t(chain) * users;
        Search search(problem, row, seeds.next());
        for (Int step = 0; step < starts + steps && !problem.tied.empty(); ++step) search.step(step < starts);
        std::copy(search.label.begin(), search.label.end(), row);
        values[chain] = 0;
        for (float sum : search.own) values[chain] += sum / 2;
    }
}
