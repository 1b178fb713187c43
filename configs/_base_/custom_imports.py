# Registers UBN before the model is built.
custom_imports = dict(imports=['ubn_mmdet'], allow_failed_imports=False)
