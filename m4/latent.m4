dnl LATENT_CHECK_CFLAG(FLAG, VARIABLE): append FLAG to VARIABLE if the compiler takes it.
AC_DEFUN([LATENT_CHECK_CFLAG], [
  AC_MSG_CHECKING([whether $CC accepts $1])
  latent_save_CFLAGS=$CFLAGS
  CFLAGS="$CFLAGS -Werror $1"
  AC_COMPILE_IFELSE([AC_LANG_PROGRAM([], [])],
    [AC_MSG_RESULT([yes]); $2="$$2 $1"], [AC_MSG_RESULT([no])])
  CFLAGS=$latent_save_CFLAGS
])

dnl LATENT_SIMD(NAME, FLAGS, HEADERS, BODY): HAVE_SIMD_NAME in config.h, an automake conditional of
dnl the same name, and SIMD_NAME_CFLAGS, if the compiler builds BODY with FLAGS.
AC_DEFUN([LATENT_SIMD], [
  AC_MSG_CHECKING([whether the compiler builds $1 kernels])
  latent_save_CFLAGS=$CFLAGS
  CFLAGS="$CFLAGS $2"
  AC_LINK_IFELSE([AC_LANG_PROGRAM([$3], [$4])], [latent_simd_ok=yes], [latent_simd_ok=no])
  CFLAGS=$latent_save_CFLAGS
  AC_MSG_RESULT([$latent_simd_ok])
  AS_IF([test $latent_simd_ok = yes], [
    AC_DEFINE([HAVE_SIMD_$1], [1], [this build holds $1 kernels])
    SIMD_$1_CFLAGS="$2"
    simd_built="$simd_built m4_tolower([$1])"
  ])
  AC_SUBST([SIMD_$1_CFLAGS])
  AM_CONDITIONAL([HAVE_SIMD_$1], [test $latent_simd_ok = yes])
])

dnl LATENT_PKG(VARIABLE, MODULE, VERSION, DEBIAN PACKAGE): a library that must be there.
AC_DEFUN([LATENT_PKG], [
  AC_MSG_CHECKING([for $2 $3])
  PKG_CHECK_EXISTS([$2 $3], [
    AC_MSG_RESULT([yes])
    $1_CFLAGS=`$PKG_CONFIG --cflags $2`
    $1_LIBS=`$PKG_CONFIG --libs $2`
  ], [
    AC_MSG_RESULT([no])
    AC_MSG_ERROR([$2 $3 not found; on Debian: apt-get install $4])
  ])
  AC_SUBST([$1_CFLAGS])
  AC_SUBST([$1_LIBS])
])
