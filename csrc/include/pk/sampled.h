// What the sampled products multiply, for host and device: values[k] = sum over tokens t of grad_y[t, row] x[t, column]
// at the k-th selected entry of a weight (rows, columns). Tokens are the positions of a convolution's output in all
// samples; x[t, column] is then the input under tap `column % taps` of channel `column / taps`. A matrix product is the
// convolution whose images are single points.
#pragma once
#include <cstdint>
#include <cstring>

#include "pk/launch.h"

namespace pk {

using Int = std::int64_t;

// The memory that one factor is read from: images (samples, channels, in), of which every channel has `taps` rows.
// Row r at token t = (sample, place of out) is the image of channel r / taps under tap r % taps, or 0 in the padding.
struct Unfold {
  Int channels, in[3], out[3], kernel[3], stride[3], padding[3], dilation[3];

  PK_HD Int in_size() const { return in[0] * in[1] * in[2]; }
  PK_HD Int out_size() const { return out[0] * out[1] * out[2]; }
  PK_HD Int taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  PK_HD Int rows() const { return channels * taps(); }
  PK_HD bool points() const {
    return in_size() == 1 && out_size() == 1 && taps() == 1 && padding[0] + padding[1] + padding[2] == 0;
  }
  // Where place `o` of the output lies in the input along dimension d, under tap k; may be outside.
  PK_HD Int source(int d, Int o, Int k) const { return o * stride[d] - padding[d] + k * dilation[d]; }
};

// As the Python side lays it out in an int64 tensor on the host.
struct Geometry {
  Int samples, rows, groups;  // grad_y (samples, rows, out)
  Unfold x;

  explicit Geometry(const void* sizes) { memcpy(this, sizes, sizeof(*this)); }
  Int tokens() const { return samples * x.out_size(); }
  PK_HD Int columns() const { return x.rows() / groups; }
  PK_HD Int rows_per_group() const { return rows / groups; }
  Unfold grad_y() const {
    Unfold plain = {rows, {}, {}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, {1, 1, 1}};
    for (int d = 0; d < 3; ++d) plain.in[d] = plain.out[d] = x.out[d];
    return plain;
  }
};

}  // namespace pk
