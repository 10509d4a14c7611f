// From images to planes, for a backend that has defined vectors of 16 words as `lanes.inl` tells, and
//
//   Vector Prepared(Vector)  what is stored of words of the map

// Where 16 words go, or how many of them there are.
inline int32_t FindPlanes(const PackJob& job, int32_t first, float** planes) {
  const int32_t count = job.words - first < kLanes ? job.words - first : kLanes;
  for (int32_t c = 0; c < count; ++c) {
    const int32_t plane = job.planes == nullptr ? first + c : job.planes[first + c];
    const bool wanted = plane >= job.first_plane && plane < job.first_plane + job.plane_count;
    planes[c] = job.to + (wanted ? plane - job.first_plane : job.plane_count) * job.plane_words;
  }
  return count;
}

void Pack(const PackJob& job) {
  for (int32_t first = job.first_word; first < job.end_word; first += kLanes) {
    float* planes[kLanes];
    const int32_t count = FindPlanes(job, first, planes);
    const float* const* pixels = job.pixels;
    for (int32_t position = 0; position < job.positions; ++position, pixels += kLanes) {
      const ptrdiff_t at = static_cast<ptrdiff_t>(position) * kLanes;
      if (count == kLanes) {
        Vector rows[kLanes];
        for (int lane = 0; lane < kLanes; ++lane) rows[lane] = Load(pixels[lane] + first);
        Transpose(rows);
        for (int c = 0; c < kLanes; ++c) Store(planes[c] + at, Prepared(rows[c]));
      } else {
        for (int32_t c = 0; c < count; ++c) Store(planes[c] + at, Prepared(Pick(pixels, first + c)));
      }
    }
  }
}
