// Runs a model of one float input [1, 4] and one float output from several threads, and prints the numbers that it gives.
//
//     c++ -std=c++17 run.cpp -lpoda -pthread && ./a.out MODEL

#include <iostream>
#include <thread>

#include "poda.hpp"

int main(int count, char **arguments) {
    try {
        const poda::Model model(count > 1 ? arguments[1] : "", 1);
        const std::vector<float> x = {1, 1, 1, 1};
        const std::vector<poda::Tensor> inputs = {poda::Tensor("x", {1, 4}, x.data(), x.size())};
        const std::vector<float> alone = model.run(inputs).values<float>(0);

        std::vector<std::vector<float>> results(4, std::vector<float>(alone.size()));
        std::vector<std::thread> threads;
        for (std::vector<float> &y : results) {
            threads.emplace_back([&] {
                for (int again = 0; again < 25; again++) {
                    model.run_into(inputs, {poda::Tensor("y", {1, y.size()}, y.data(), y.size())});
                }
            });
        }
        for (std::thread &thread : threads) thread.join();
        for (const std::vector<float> &y : results) {
            if (y != alone) return 3;
        }
        std::cout << "output:";
        for (float y : alone) std::cout << ' ' << y;
        std::cout << '\n';

        model.run({poda::Tensor("z", {1, 4}, x.data(), x.size())});
    } catch (const poda::Error &error) {
        std::cout << "refused: " << error.what() << '\n';
        return error.status() == PODA_STATUS_INPUT ? 0 : 1;
    }
}
