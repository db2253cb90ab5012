"""The rules of the kubelet that scripts/pods follows, and what it refuses because it does not know it."""

import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from pods import Failed
from pods.container import quantity
from pods.dns import NAME_ERROR, Dns, read_name
from pods.image import Images
from pods.kubelet import Cluster, Pod
from pods.manifest import Manifest, environment, expand, render
from pods.volumes import Volumes

DEPLOYMENT = {"kind": "Deployment", "metadata": {"name": "one", "namespace": "place"}}


def named(kind, name, **fields):
    return {"kind": kind, "metadata": {"name": name}} | fields


def manifest(*objects):
    return Manifest([DEPLOYMENT, *objects])


class Variables(unittest.TestCase):
    def known(self, container, *objects, image=(), links=False, fields=None):
        return environment(manifest(*objects), container, image, links, fields or {})

    def test_later_sources_win_image_then_envFrom_then_env(self):
        data = named("ConfigMap", "values", data={"A": "map", "B": "map"})
        container = {"envFrom": [{"configMapRef": {"name": "values"}}], "env": [{"name": "B", "value": "env"}]}
        known = self.known(container, data, image=["A=image", "C=a=b"])
        self.assertEqual(known, {"A": "map", "B": "env", "C": "a=b"})

    def test_envFrom_may_have_a_prefix_and_be_absent_if_it_is_optional(self):
        data = named("ConfigMap", "values", data={"A": "1"})
        sources = [{"prefix": "X_", "configMapRef": {"name": "values"}},
                   {"secretRef": {"name": "other", "optional": True}}]
        self.assertEqual(self.known({"envFrom": sources}, data), {"X_A": "1"})
        with self.assertRaisesRegex(Failed, "Secret other is not in the manifest"):
            self.known({"envFrom": [{"secretRef": {"name": "other"}}]})

    def test_a_variable_can_come_from_a_key_or_a_field_of_the_pod(self):
        data = named("ConfigMap", "values", data={"a": "1"})

        def taken(source, **fields):
            return self.known({"env": [{"name": "V", "valueFrom": source}]}, data, fields=fields).get("V")

        self.assertEqual(taken({"configMapKeyRef": {"name": "values", "key": "a"}}), "1")
        self.assertIsNone(taken({"configMapKeyRef": {"name": "values", "key": "b", "optional": True}}))
        self.assertEqual(taken({"fieldRef": {"fieldPath": "status.podIP"}}, **{"status.podIP": "127.10.0.1"}),
                         "127.10.0.1")
        with self.assertRaisesRegex(Failed, "ConfigMap values has no key b"):
            taken({"configMapKeyRef": {"name": "values", "key": "b"}})
        with self.assertRaisesRegex(Failed, "is not known here: add it to manifest.py"):
            taken({"resourceFieldRef": {"resource": "limits.cpu"}})

    def test_variables_in_texts_are_those_before_them(self):
        known = self.known({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(B)"}]})
        self.assertEqual(known["B"], "1$(B)")
        self.assertEqual(expand("$(A) $$(A) $A $(unknown)", {"A": "1"}), "1 $(A) $A $(unknown)")

    def test_services_with_an_address_are_told_if_the_pod_wants_it(self):
        ports = {"ports": [{"port": 8080}]}
        headless = {"clusterIP": "None"} | ports
        services = [named("Service", "my-web", spec=ports), named("Service", "bare", spec=headless)]
        self.assertEqual(self.known({}, *services), {})
        self.assertEqual(self.known({}, *services, links=True), {
            "MY_WEB_SERVICE_HOST": "127.0.0.1", "MY_WEB_SERVICE_PORT": "8080", "MY_WEB_PORT": "tcp://127.0.0.1:8080"})


class Files(unittest.TestCase):
    """Volumes belong to the group of whoever runs this test, so that it needs no rights."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.group = self.folder.stat().st_gid

    def prepare(self, volume, *objects):
        volumes = Volumes(manifest(*objects), self.folder / "claims", self.folder / "pod", self.group)
        return volumes.prepare({"name": "v"} | volume)

    def test_files_of_a_secret_have_its_mode_and_can_be_read_by_the_group(self):
        secret = named("Secret", "keys", data={"a": "c2VjcmV0"})
        folder = self.prepare({"secret": {"secretName": "keys", "defaultMode": 0o400}}, secret)
        self.assertEqual(((folder / "a").read_text(), (folder / "a").stat().st_mode & 0o777), ("secret", 0o440))
        self.assertEqual(str((folder / "a").readlink()), "..data/a")

    def test_items_choose_keys_and_paths(self):
        data = named("ConfigMap", "files", data={"a": "1", "b": "2"})
        one = {"name": "files", "items": [{"key": "b", "path": "sub/c", "mode": 0o600}]}
        folder = self.prepare({"projected": {"sources": [{"configMap": one}]}}, data)
        self.assertEqual((folder / "sub" / "c").read_text(), "2")
        self.assertEqual((folder / "sub" / "c").stat().st_mode & 0o777, 0o640)
        self.assertFalse((folder / "a").exists())
        one["items"][0]["key"] = "x"
        with self.assertRaisesRegex(Failed, "has no key x: the pod could not start"):
            self.prepare({"name": "w", "configMap": one}, data)

    def test_a_secret_that_may_be_missing_is_an_empty_directory(self):
        folder = self.prepare({"secret": {"secretName": "keys", "optional": True}})
        self.assertEqual([one.name for one in folder.iterdir() if not one.name.startswith("..")], [])

    def test_a_claim_is_kept_and_all_on_it_belongs_to_the_group(self):
        file = self.folder / "claims" / "data" / "sub" / "file"
        file.parent.mkdir(parents=True)
        file.write_text("kept")
        file.chmod(0o400)
        folder = self.prepare({"persistentVolumeClaim": {"claimName": "data"}}, named("PersistentVolumeClaim", "data"))
        self.assertEqual((folder / "sub" / "file").read_text(), "kept")
        self.assertEqual(file.stat().st_mode & 0o777, 0o660)
        self.assertEqual(folder.stat().st_mode & 0o7777, 0o2775)

    def test_unknown_volumes_are_refused(self):
        with self.assertRaisesRegex(Failed, r"volume v is of a kind that is not known here: \['hostPath', 'name'\]"):
            self.prepare({"hostPath": {"path": "/"}})
        with self.assertRaisesRegex(Failed, "a projected volume of downwardAPI is not known here"):
            self.prepare({"projected": {"sources": [{"downwardAPI": {}}]}})
        with self.assertRaisesRegex(Failed, "PersistentVolumeClaim other is not in the manifest"):
            self.prepare({"persistentVolumeClaim": {"claimName": "other"}})


class Names(unittest.TestCase):
    """Questions as glibc asks them, without a socket."""

    def answer(self, addresses, kind):
        dns = Dns.__new__(Dns)
        dns.addresses = lambda name: addresses if name == "web.place" else None
        return lambda name: dns.answer(question(name, kind))

    def test_a_name_has_the_addresses_of_its_pods(self):
        reply = self.answer(["127.10.0.1", "127.10.0.2"], 1)("Web.place")
        self.assertEqual((reply[:2], reply[3] & 15, reply[7]), (b"id", 0, 2))
        self.assertEqual((reply[-20:-16], reply[-4:]), (bytes([127, 10, 0, 1]), bytes([127, 10, 0, 2])))

    def test_it_has_no_address_of_version_6_but_exists(self):
        reply = self.answer(["127.10.0.1"], 28)("web.place")
        self.assertEqual((reply[3] & 15, reply[7]), (0, 0))

    def test_without_a_ready_pod_it_does_not_exist_nor_do_others(self):
        for name, addresses in (("web.place", []), ("other.place", ["127.10.0.1"])):
            reply = self.answer(addresses, 1)(name)
            self.assertEqual((reply[3] & 15, reply[7]), (NAME_ERROR, 0))

    def test_a_name_is_read_in_small_letters(self):
        self.assertEqual(read_name(question("A.b.C", 1))[0], "a.b.c")


def question(name, kind):
    labels = b"".join(bytes([len(one)]) + one.encode() for one in name.split("."))
    return b"id\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + labels + bytes([0, 0, kind, 0, 1])


class Refusals(unittest.TestCase):
    def test_quantities(self):
        self.assertEqual([quantity(one) for one in ("500m", 2, "1.5", "64Gi", "1k")], [0.5, 2, 1.5, 64 * 2**30, 1000])
        with self.assertRaisesRegex(Failed, "128GiB is no quantity"):
            quantity("128GiB")

    def test_an_overlay_that_is_none(self):
        with self.assertRaisesRegex(Failed, "overlays/nothing: .*not a valid directory"):
            render("nothing")

    def test_an_image_that_is_not_there(self):
        with self.assertRaisesRegex(Failed, "there is no image other in /nowhere: scripts/images DIR makes"):
            Images("/nowhere").get("registry.example:5000/team/other:1")

    def test_a_pod_of_several_containers(self):
        template = {"metadata": {"labels": {}}, "spec": {"containers": [{}, {}]}}
        cluster = Cluster.__new__(Cluster)
        cluster.folder = Path("/nowhere")
        with self.assertRaisesRegex(Failed, "one-1 has several containers"):
            Pod(cluster, DEPLOYMENT | {"spec": {"template": template}}, 1)


if __name__ == "__main__":
    unittest.main()
