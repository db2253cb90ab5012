"""The volumes of a pod as directories on this machine, with the owners and modes that a kubelet gives them.

Takes the pod's `volumes`; gives the directory of each. Claims live as long as the run, the others as long as the pod.
"""

import base64
import os

from . import Failed

KEYS = {"configMap": "ConfigMap", "secret": "Secret"}


class Volumes:
    def __init__(self, manifest, claims, folder, fs_group):
        self.manifest, self.claims, self.folder, self.fs_group = manifest, claims, folder, fs_group

    def prepare(self, volume):
        """The directory of one volume."""
        target = self.folder / volume["name"]
        if "persistentVolumeClaim" in volume:
            target = self.claims / self.manifest.get(
                "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])["metadata"]["name"]
            target.mkdir(parents=True, exist_ok=True)
            self.share_all(target)
        elif "emptyDir" in volume:
            target.mkdir(parents=True)
            self.share(target)
            target.chmod(0o2777)
        elif "configMap" in volume or "secret" in volume:
            kind = "configMap" if "configMap" in volume else "secret"
            self.project([{kind: volume[kind]}], volume[kind].get("defaultMode", 0o644), target)
        elif "projected" in volume:
            self.project(volume["projected"]["sources"], volume["projected"].get("defaultMode", 0o644), target)
        else:
            raise Failed(f"volume {volume['name']} is of a kind that is not known here: {sorted(volume)}")
        return target

    def share(self, target):
        os.chown(target, -1, self.fs_group)
        os.chmod(target, 0o2775)

    def share_all(self, target):
        """Everything on a volume is its group's, too. (`fsGroupChangePolicy: OnRootMismatch`: unless its root is.)"""
        if target.stat().st_gid == self.fs_group and target.stat().st_mode & 0o2070 == 0o2070:
            return
        for folder, _, files in os.walk(target):
            self.share(folder)
            for name in files:
                file = os.path.join(folder, name)
                os.chown(file, -1, self.fs_group)
                os.chmod(file, os.stat(file).st_mode | 0o660)

    def project(self, sources, default_mode, target):
        """Files behind a link to a directory, as the kubelet writes them to change all of them at once."""
        content = target / "..content"
        content.mkdir(parents=True)
        self.share(target)
        self.share(content)
        (target / "..data").symlink_to(content.name)
        for source in sources:
            for name, data, mode in self.files(source):
                # In a volume with fsGroup, its members may read every file.
                mode = (mode or default_mode) | 0o440
                file = content / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
                os.chown(file, 0, self.fs_group)
                file.chmod(mode)
                (target / name.split("/")[0]).symlink_to(f"..data/{name.split('/')[0]}")

    def files(self, source):
        (field, reference), = source.items()
        if field not in KEYS:
            raise Failed(f"a projected volume of {field} is not known here")
        data = self.manifest.data(KEYS[field], reference)
        if data is None:
            return
        items = reference.get("items") or [{"key": key, "path": key} for key in data]
        for item in items:
            if item["key"] not in data:
                raise Failed(f"{KEYS[field]} {reference} has no key {item['key']}: the pod could not start")
            value = data[item["key"]]
            yield item["path"], base64.b64decode(value) if field == "secret" else value.encode(), item.get("mode")
