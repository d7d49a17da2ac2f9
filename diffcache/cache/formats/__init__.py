"""How arrays, ids and labels lie in a store's files: zarr and HDF5, plain and compressed."""
