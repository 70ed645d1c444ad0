"""The records of a fetched batch, with their offsets, whatever its form."""

from statecast.v1 import record_pb2


def records_of(fetched):
    offset = fetched.base_offset
    for index, record in enumerate(uncompressed(fetched.batch).records):
        offset += record.offset_gap
        if index >= fetched.skip_records:
            yield offset, record
        offset += 1


def uncompressed(batch):
    if batch.compression == record_pb2.COMPRESSION_NONE:
        return batch
    if batch.compression == record_pb2.COMPRESSION_LZ4:
        import lz4.block  # pip install lz4

        records = lz4.block.decompress(batch.compressed, batch.uncompressed_size)
    else:
        import zstandard  # pip install zstandard

        records = zstandard.decompress(batch.compressed, batch.uncompressed_size)
    return record_pb2.RecordBatch.FromString(records)
