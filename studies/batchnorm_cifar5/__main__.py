from studies.batchnorm_cifar5.study import main

main()
