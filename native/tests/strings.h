// Strings as a file has them, for tests of vocabularies.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "../text/pieces.h"

namespace {

class HeldStrings {
 public:
  explicit HeldStrings(const std::vector<std::string>& strings) {
    for (const std::string& string : strings) {
      starts_.push_back(data_.size());
      data_ += string;
      ends_.push_back(data_.size());
    }
  }
  legato::Strings view() const {
    return {{reinterpret_cast<const uint8_t*>(data_.data()), data_.size()}, starts_, ends_};
  }

 private:
  std::string data_;
  std::vector<uint64_t> starts_, ends_;
};

std::shared_ptr<legato::Pieces> pieces(const std::vector<std::string>& strings) {
  return std::make_shared<legato::Pieces>(HeldStrings(strings).view());
}

}  // namespace
