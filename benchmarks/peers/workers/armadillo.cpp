// Armadillo's gmm_full and gmm_diag (double) or fgmm_full and fgmm_diag (float).
//
//     g++ -O3 -march=native -fopenmp -DARMA_NO_DEBUG armadillo.cpp -o armadillo -larmadillo
//     armadillo JOB   (a folder with job.txt; leaves result.txt and raw float64 .bin files there)
//
// `learn` prints one line per EM iteration when asked to; a stream buffer that notes the time of
// each such line times the steps of one uninterrupted run. `learn` knows no tolerance: for a whole
// fit a first run, not timed, prints the log-likelihoods, from which follows after how many
// iterations the change falls below the tolerance; the run that is timed makes exactly so many.

#include <armadillo>
#include <chrono>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

using Seconds = std::chrono::duration<double>;
static double now() { return Seconds(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// What `learn` prints: when each "EM: iteration" line ended, and the log-likelihood it held.
struct Listener : std::streambuf {
    std::string line;
    std::vector<double> times, levels;
    int overflow(int c) override {
        if (c == '\n') {
            const auto at = line.find("avg_log_p:");
            if (at != std::string::npos && line.find("EM: iteration") != std::string::npos) {
                times.push_back(now());
                levels.push_back(std::stod(line.substr(at + 10)));
            }
            line.clear();
        } else if (c != EOF) {
            line.push_back(char(c));
        }
        return c;
    }
};

using Job = std::map<std::string, std::string>;

static Job read_job(const std::string& folder) {
    Job job;
    std::ifstream file(folder + "/job.txt");
    std::string line;
    while (std::getline(file, line)) {
        const auto at = line.find('=');
        if (at != std::string::npos) job[line.substr(0, at)] = line.substr(at + 1);
    }
    return job;
}

static double memory_mb(const std::string& what) {
    std::ifstream file("/proc/self/status");
    std::string line;
    while (std::getline(file, line))
        if (line.rfind(what, 0) == 0) return std::stod(line.substr(what.size() + 1)) / 1024;
    return 0;
}

// Raw float64 numbers, row-major: read as columns they are Armadillo's own layout.
static arma::mat read_raw(const std::string& path, arma::uword rows, arma::uword columns) {
    arma::mat m(rows, columns);
    std::ifstream file(path, std::ios::binary);
    file.read(reinterpret_cast<char*>(m.memptr()), std::streamsize(m.n_elem * sizeof(double)));
    if (!file) throw std::runtime_error("cannot read " + path);
    return m;
}

template <typename M> static void write_raw(const std::string& path, const M& m) {
    const auto wide = arma::conv_to<arma::Col<double>>::from(arma::vectorise(m));
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(wide.memptr()),
               std::streamsize(wide.n_elem * sizeof(double)));
}

template <typename eT> struct Full {
    using Model = arma::gmm_priv::gmm_full<eT>;
    static void begin(Model& model, const std::string& start, arma::uword d, arma::uword k) {
        const auto means = read_raw(start + "/means.bin", d, k);
        const auto flat = read_raw(start + "/covariances.bin", d * d, k);
        const auto weights = read_raw(start + "/weights.bin", 1, k);
        arma::Cube<eT> covariances(d, d, k);
        for (arma::uword j = 0; j < k; ++j)
            covariances.slice(j) =
                arma::conv_to<arma::Mat<eT>>::from(arma::reshape(flat.col(j), d, d));
        model.set_params(arma::conv_to<arma::Mat<eT>>::from(means), covariances,
                         arma::conv_to<arma::Row<eT>>::from(arma::rowvec(weights)));
    }
    static const arma::Cube<eT>& spread(const Model& model) { return model.fcovs; }
};

template <typename eT> struct Diagonal {
    using Model = arma::gmm_priv::gmm_diag<eT>;
    static void begin(Model& model, const std::string& start, arma::uword d, arma::uword k) {
        const auto means = read_raw(start + "/means.bin", d, k);
        const auto variances = read_raw(start + "/covariances.bin", d, k);
        const auto weights = read_raw(start + "/weights.bin", 1, k);
        model.set_params(arma::conv_to<arma::Mat<eT>>::from(means),
                         arma::conv_to<arma::Mat<eT>>::from(variances),
                         arma::conv_to<arma::Row<eT>>::from(arma::rowvec(weights)));
    }
    static const arma::Mat<eT>& spread(const Model& model) { return model.dcovs; }
};

struct Result {
    std::vector<double> seconds;
    std::vector<int> n_steps;
    double before = 0;  // resident memory once the rows are there
};

template <typename Kind>
static void keep(const typename Kind::Model& model, const std::string& folder, int i) {
    const auto name = [&](const char* what) {
        return folder + "/" + what + "-" + std::to_string(i) + ".bin";
    };
    write_raw(name("weights"), model.hefts);
    write_raw(name("means"), model.means);
    write_raw(name("covariances"), Kind::spread(model));
}

static void must(bool learnt) {
    if (!learnt) throw std::runtime_error("learn() returned false");
}

template <typename Kind, typename eT>
static Result measure(const Job& job, const std::string& folder, const arma::Mat<eT>& x) {
    Listener listener;
    std::ostream heard(&listener);
    heard.precision(17);
    arma::set_cout_stream(heard);
    const arma::uword k = std::stoul(job.at("n_components"));
    const double floor = std::stod(job.at("reg_covar"));
    Result result;
    result.before = memory_mb("VmRSS:");
    if (job.at("kind") == "steps") {
        typename Kind::Model model;
        Kind::begin(model, job.at("start"), x.n_rows, k);
        const int n = std::stoi(job.at("steps"));
        const double began = now();
        must(model.learn(x, k, arma::maha_dist, arma::keep_existing, 0, n, floor, true));
        listener.times.insert(listener.times.begin(), began);
        for (size_t i = 1; i < listener.times.size(); ++i)
            result.seconds.push_back(listener.times[i] - listener.times[i - 1]);
        result.n_steps.push_back(int(result.seconds.size()));
        keep<Kind>(model, folder, 0);
        return result;
    }
    const int most = std::stoi(job.at("max_iter")), repeats = std::stoi(job.at("repeats"));
    const double tol = std::stod(job.at("tol")), limit = std::stod(job.at("limit_seconds"));
    double spent = 0;
    for (int i = 0; i < repeats; ++i) {
        listener.levels.clear();
        typename Kind::Model trial, model;
        const auto fit = [&](typename Kind::Model& m, int n, bool print) {
            arma::arma_rng::set_seed(arma::uword(i + 1));
            must(m.learn(x, k, arma::maha_dist, arma::random_subset, 10, n, floor, print));
        };
        const double tried = now();
        fit(trial, most, true);
        int n = 1;
        const auto& level = listener.levels;
        while (n < int(level.size()) && (n < 2 || std::abs(level[n - 1] - level[n - 2]) >= tol)) ++n;
        const double began = now();
        fit(model, n, false);
        result.seconds.push_back(now() - began);
        result.n_steps.push_back(n);
        keep<Kind>(model, folder, i);
        spent += now() - tried;  // both runs
        if (spent > limit / 3) break;
    }
    return result;
}

template <typename eT> static Result run(const Job& job, const std::string& folder) {
    // `rows.bin` is float64 or float32 as the job says, N rows of D: Armadillo's D x N.
    arma::Mat<eT> x(std::stoul(job.at("n_features")), std::stoul(job.at("n_rows")));
    std::ifstream file(job.at("rows"), std::ios::binary);
    file.read(reinterpret_cast<char*>(x.memptr()), std::streamsize(x.n_elem * sizeof(eT)));
    if (!file) throw std::runtime_error("cannot read " + job.at("rows"));
    if (job.at("family") == "full") return measure<Full<eT>, eT>(job, folder, x);
    return measure<Diagonal<eT>, eT>(job, folder, x);
}

int main(int, char** arguments) {
    const std::string folder = arguments[1];
    try {
        const Job job = read_job(folder);
        const bool single = job.at("dtype") == "float32";
        const Result result = single ? run<float>(job, folder) : run<double>(job, folder);
        std::ofstream out(folder + "/result.txt");
        out.precision(17);
        out << "before=" << result.before << "\npeak=" << memory_mb("VmHWM:") << "\nseconds=";
        for (double s : result.seconds) out << s << ' ';
        out << "\nn_steps=";
        for (int n : result.n_steps) out << n << ' ';
        out << "\nversion=" << arma::arma_version::as_string() << '\n';
    } catch (const std::exception& error) {
        std::cerr << error.what() << std::endl;
        return 1;
    }
    return 0;
}
