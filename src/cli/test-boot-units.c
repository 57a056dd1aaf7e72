/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "cli/boot-units.h"

#define SERVICE "umbra-resume@0000000000000077.service"

static char dir[4200];

/* systemd-escape --path says the same. */
TEST(units_are_named_as_systemd_does)
{
    static const struct {
        const char *path, *name;
    } cases[] = {
        {"/", "-.mount"},
        {"/srv", "srv.mount"},
        {"//srv//a/", "srv-a.mount"},
        {"/srv/a-b", "srv-a\\x2db.mount"},
        {"/srv/\xc3\xa4 b", "srv-\\xc3\\xa4\\x20b.mount"},
        {"/.hidden/.x", "\\x2ehidden-.x.mount"},
        {"/a%b\\", "a\\x25b\\x5c.mount"},
        {"/a:b_c.d9Z", "a:b_c.d9Z.mount"},
    };
    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        CLEANUP_FREE char *name = boot_unit_name(cases[i].path, ".mount");
        ASSERT_STREQ(name, cases[i].name);
    }
}

TEST(devices_have_paths)
{
    static const struct {
        const char *device, *path;
    } cases[] = {
        {"/dev/sdb1", "/dev/sdb1"},
        {"UUID=12-ab", "/dev/disk/by-uuid/12-ab"},
        {"LABEL=\"my disk/1\"", "/dev/disk/by-label/my\\x20disk\\x2f1"},
        {"PARTUUID=x", "/dev/disk/by-partuuid/x"},
        {"PARTLABEL=y", "/dev/disk/by-partlabel/y"},
    };
    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        CLEANUP_FREE char *path = boot_device_path(cases[i].device);
        ASSERT_STREQ(path, cases[i].path);
    }
    ASSERT_TRUE(boot_device_path("server:/export") == NULL);
    ASSERT_TRUE(boot_device_path("tmpfs") == NULL);
}

static void write_file(const char *path, const char *text)
{
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(write(fd, text, strlen(text)), strlen(text));
}

static void read_unit(const char *unit, const char *name, char text[4096])
{
    char path[4400];
    (void)snprintf(path, sizeof(path), "%s/%s.d/%s", dir, unit, name);
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ASSERT_TRUE(fd >= 0);
    ssize_t n = read(fd, text, 4095);
    ASSERT_TRUE(n > 0);
    text[n] = '\0';
}

static bool has_unit(const char *unit)
{
    char path[4400];
    (void)snprintf(path, sizeof(path), "%s/%s.d", dir, unit);
    return access(path, F_OK) == 0;
}

static bool has_line(const char *text, const char *line)
{
    size_t len = strlen(line);
    for (const char *at = strstr(text, line); at; at = strstr(at + 1, line))
        if ((at == text || at[-1] == '\n') && at[len] == '\n')
            return true;
    return false;
}

/* The paths are only read. */
static void write_units(const char *fstab, const char *mount_point, const char *repo)
{
    CLEANUP(boot_mount_vector_release_all) struct boot_mount_vector mounts = {0};
    char path[4300];
    (void)snprintf(dir, sizeof(dir), "%s/%s", test_tmpdir(), repo + strspn(repo, "/"));
    for (char *c = dir + strlen(test_tmpdir()) + 1; *c != '\0'; c++)
        *c = *c == '/' ? '_' : *c;
    ASSERT_EQ(mkdir(dir, 0700), 0);
    (void)snprintf(path, sizeof(path), "%s/fstab", dir);
    write_file(path, fstab);
    ASSERT_OK(boot_mounts_read(path, &mounts));
    const struct instant_note note = {
        .restore_id = 0x77,
        .target = (char *)(uintptr_t) "/srv/t",
        .mount_point = (char *)(uintptr_t)mount_point,
        .repo_url = (char *)(uintptr_t)repo,
        .password_file = (char *)(uintptr_t) "/srv/pass",
    };
    ASSERT_OK(boot_units_write(dir, &note, &mounts));
}

TEST(mounts_of_the_volume_wait_for_its_gate)
{
    char text[4096];
    write_units("# c\n/dev/vda1 / ext4 defaults 0 1\nUUID=aa /srv btrfs subvol=a 0 2\n"
                "UUID=aa /home\\040x/ btrfs subvol=b 0 0\nUUID=bb /data xfs defaults 0 0\n",
                "/srv", "/mnt/disk/repo");
    read_unit("srv.mount", "50-umbra-0000000000000077.conf", text);
    ASSERT_TRUE(has_line(text, "Requires=" SERVICE));
    ASSERT_TRUE(has_line(text, "After=" SERVICE));
    read_unit("home\\x20x.mount", "50-umbra-0000000000000077.conf", text);
    ASSERT_TRUE(has_line(text, "Requires=" SERVICE));
    ASSERT_FALSE(has_unit("data.mount"));

    read_unit(SERVICE, "50-umbra.conf", text);
    ASSERT_TRUE(has_line(text, "Requires=dev-disk-by\\x2duuid-aa.device"));
    ASSERT_TRUE(has_line(text, "After=dev-disk-by\\x2duuid-aa.device"));
    ASSERT_TRUE(has_line(text, "Requires=systemd-fsck@dev-disk-by\\x2duuid-aa.service"));
    ASSERT_TRUE(has_line(text, "After=local-fs-pre.target"));
    ASSERT_TRUE(has_line(text, "Wants=mnt-disk.mount"));
    ASSERT_TRUE(has_line(text, "After=mnt.mount"));
    ASSERT_TRUE(has_line(text, "After=var.mount")); /* the cache */
    /* What lies on the volume cannot come first. */
    ASSERT_FALSE(has_line(text, "After=srv.mount"));
    ASSERT_FALSE(has_line(text, "After=srv-pass.mount"));
}

TEST(a_repository_on_the_volume_makes_no_cycle)
{
    char text[4096];
    write_units("/dev/vdb /srv ext4 _netdev 0 0\n", "/srv", "/srv/repo");
    read_unit(SERVICE, "50-umbra.conf", text);
    ASSERT_TRUE(strstr(text, "=srv") == NULL);
    ASSERT_TRUE(has_line(text, "Requires=dev-vdb.device"));
    ASSERT_TRUE(has_line(text, "Wants=network-online.target"));
    ASSERT_TRUE(strstr(text, "systemd-fsck") == NULL);
}

TEST(a_mount_that_fstab_does_not_have_waits_too)
{
    char text[4096];
    write_units("/dev/vda1 / ext4 defaults 0 1\n", "/srv", "/repo");
    read_unit("srv.mount", "50-umbra-0000000000000077.conf", text);
    ASSERT_TRUE(has_line(text, "Requires=" SERVICE));
}

TEST(local_file_systems_wait_for_the_gate_of_the_root)
{
    char text[4096];
    write_units("/dev/vda1 / ext4 defaults 0 1\n", "/", "/other");
    read_unit("local-fs.target", "50-umbra-0000000000000077.conf", text);
    ASSERT_TRUE(has_line(text, "Requires=" SERVICE));
    read_unit(SERVICE, "50-umbra.conf", text);
    ASSERT_TRUE(strstr(text, ".device") == NULL);
}

TEST(a_fstab_that_is_not_there_is_empty)
{
    struct boot_mount_vector mounts = {0};
    ASSERT_OK(boot_mounts_read("/nowhere/fstab", &mounts));
    ASSERT_EQ(mounts.count, 0);
}

TEST_MAIN()
