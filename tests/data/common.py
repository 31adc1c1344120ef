"""What the tests of sources share."""

import pytest
import torch
from torch.utils.data import Dataset


def all_rows(source):
    return torch.cat([block.x for block in source.blocks()])


def write_parquet(path, columns, **options):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table(columns), path, **options)


def chunks(x, rows=7):
    return list(x.split(rows))


class Failing(Dataset):
    """Cannot give row 57."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        if i == 57:
            raise OSError("the disk is gone")
        return self.x[i]
